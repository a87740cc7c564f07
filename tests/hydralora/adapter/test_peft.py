"""What users of PEFT do with an adapter: save, load, switch, delete, configure."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AutoPeftModelForCausalLM,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.helpers import disable_input_dtype_casting
from peft.tuners.tuners_utils import BaseTuner
from safetensors.torch import load_file, save_file

from hydralora import HydraLoraConfig, record_gates
from hydralora.adapter.layer import HydraLoraLayer

WEIGHTS = "adapter_model.safetensors"
VARIANTS = [
    {},
    {"num_experts": 1},
    {"router_input": "hidden", "shared_expert": True},
    {"router_input": "uniform"},
    {"shared_a": False},
    {"shared_rank": 5, "shared_alpha": 3, "lora_dropout": 0.1},
    {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True},
]


def logits(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).logits


def adapted(model: torch.nn.Module) -> set[str]:
    """The last two parts of the names of adapted layers, by block."""
    names = (name for name, module in model.named_modules() if isinstance(module, HydraLoraLayer))
    return {".".join(name.split("layers.")[1].split(".")[::2]) for name in names}


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_save_and_load(
    hydra_llama: Any, tiny_llama: Any, tokens: torch.Tensor, tmp_path: Path, options: Any, low_cpu_mem_usage: bool
) -> None:
    model = hydra_llama(**options)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", WEIGHTS, "README.md"}
    router = [key for key in load_file(tmp_path / WEIGHTS) if key.endswith(".q_proj.hydralora_router.weight")]
    assert len(router) == (0 if options.get("num_experts") == 1 or "uniform" in options.values() else 2)
    again = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(again, HydraLoraConfig)
    assert again.to_dict() == {**model.peft_config["default"].to_dict(), "inference_mode": True}


def test_auto_class(tiny_llama: Any, hydra_llama: Any, tokens: torch.Tensor, tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "base")
    model = hydra_llama()
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"))
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))


def test_several_adapters(hydra_llama: Any, tokens: torch.Tensor, tmp_path: Path) -> None:
    model = hydra_llama()
    first = logits(model, tokens)
    model.save_pretrained(tmp_path)
    other = HydraLoraConfig(num_experts=2, init_weights=False, target_modules=["up_proj"], task_type="CAUSAL_LM")
    model.add_adapter("other", other)
    assert not any(p.requires_grad for name, p in model.named_parameters() if ".other." in name)
    model.set_adapter("other")
    assert not torch.allclose(logits(model, tokens), first)
    assert all(p.requires_grad == (".other." in name) for name, p in model.named_parameters())
    model.load_adapter(tmp_path, adapter_name="copy")
    model.set_adapter("copy")
    assert torch.equal(logits(model, tokens), first)
    model.base_model.set_adapter(["default", "other"])
    together = logits(model, tokens)
    assert not torch.allclose(together, first)
    model.delete_adapter("other")
    assert torch.equal(logits(model, tokens), first)
    assert not any(".other" in name for name, _ in model.named_modules())
    assert all("other" not in layer.r for layer in model.modules() if isinstance(layer, HydraLoraLayer))


def test_which_layers_are_adapted(tiny_llama: Any) -> None:
    def adapted_by(**options: Any) -> set[str]:
        return adapted(get_peft_model(tiny_llama(), HydraLoraConfig(**options)))

    attention = {"self_attn." + name for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    assert adapted_by() == {"0.q_proj", "0.v_proj", "1.q_proj", "1.v_proj"}  # PEFT's table for Llama
    everything = adapted_by(target_modules="all-linear")
    assert len(everything) == 14
    assert adapted_by(target_modules="all-linear", exclude_modules=["mlp.up_proj"]) == everything - {
        "0.up_proj",
        "1.up_proj",
    }
    assert adapted_by(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers") == {"1.q_proj"}
    assert adapted_by(target_modules=rf".*\.1\.({'|'.join(attention)})") == {
        "1." + name.split(".")[1] for name in attention
    }


def test_patterns_of_rank_and_alpha(tiny_llama: Any) -> None:
    config = HydraLoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj"],
        rank_pattern={"q_proj": 2},
        alpha_pattern={"1.*v_proj": 6},
    )
    layers = get_peft_model(tiny_llama(), config).get_base_model().model.layers
    q, v = layers[1].self_attn.q_proj, layers[1].self_attn.v_proj
    assert (q.r["default"], q.scaling["default"]) == (2, 4.0)
    assert (v.r["default"], v.scaling["default"]) == (4, 1.5)
    assert layers[0].self_attn.v_proj.scaling["default"] == 2.0


def test_modules_to_save(tiny_llama: Any, tokens: torch.Tensor, tmp_path: Path) -> None:
    config = HydraLoraConfig(init_weights=False, modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(tiny_llama(), config).eval()
    model.get_base_model().lm_head.modules_to_save["default"].weight.data.mul_(2)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_adapter_dtype(tiny_llama: Any, tokens: torch.Tensor, dtype: torch.dtype, autocast: bool) -> None:
    base = tiny_llama().to(dtype)
    model = get_peft_model(base, HydraLoraConfig(init_weights=False), autocast_adapter_dtype=autocast)
    dtypes = {p.dtype for p in model.parameters() if p.requires_grad}
    assert dtypes == {torch.float32 if autocast else dtype}
    out = model(tokens, labels=tokens)
    out.loss.backward()
    assert out.logits.dtype == dtype
    assert torch.isfinite(out.logits).all()


def test_input_casting_can_be_switched_off(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama()
    with disable_input_dtype_casting(model):
        switched = logits(model, tokens)
    assert torch.equal(switched, logits(model, tokens))  # of one dtype, so there is nothing to cast


def test_injected_without_a_peft_model(tiny_llama: Any, hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama()
    state_dict = get_peft_model_state_dict(model)
    injected = inject_adapter_in_model(HydraLoraConfig(r=4, target_modules="all-linear"), tiny_llama())
    set_peft_model_state_dict(injected, state_dict)
    assert torch.equal(logits(injected, tokens), logits(model, tokens))


def test_router_counts_as_trainable(hydra_llama: Any) -> None:
    model = hydra_llama(target_modules=["q_proj"])
    per_layer = 4 * 32 + 32 * 3 * 4 + 3 * 4
    assert model.get_nb_trainable_parameters()[0] == 2 * per_layer


def edit_weights(folder: Path, edit: Any) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file(edit(weights), folder / WEIGHTS, metadata={"format": "pt"})


def without(part: str) -> Any:
    return lambda weights: {key: value for key, value in weights.items() if part not in key}


def renamed(old: str, new: str) -> Any:
    return lambda weights: {key.replace(old, new): value for key, value in weights.items()}


def shortened(part: str) -> Any:
    return lambda weights: {key: value[:-1].clone() if part in key else value for key, value in weights.items()}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without("0.self_attn.q_proj.hydralora_B"), "Missing weights of adapter 'default': .*q_proj.hydralora_B"),
        (without("layers.1"), "Missing weights of adapter 'default': .*layers.1.* and 1 more"),
        (renamed("layers.1.", "layers.7."), "Unexpected adapter weights that no layer has: .*layers.7"),
        (shortened("0.self_attn.q_proj.hydralora_A"), "size mismatch for .*q_proj.hydralora_A.* torch.Size"),
    ],
    ids=["one missing", "truncated", "other layers", "other rank"],
)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_wrong_adapter_says_what_differs(
    hydra_llama: Any, tiny_llama: Any, tmp_path: Path, edit: Any, message: str, low_cpu_mem_usage: bool
) -> None:
    hydra_llama().save_pretrained(tmp_path)
    edit_weights(tmp_path, edit)
    with pytest.raises(RuntimeError, match=message):
        PeftModel.from_pretrained(tiny_llama(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)


def test_ignored_sizes_are_still_named(hydra_llama: Any, tiny_llama: Any, tmp_path: Path) -> None:
    """PEFT would leave the weight as it was initialised: an adapter of which a part is random helps nobody."""
    hydra_llama().save_pretrained(tmp_path)
    edit_weights(tmp_path, shortened("0.self_attn.q_proj.hydralora_A"))
    with pytest.raises(RuntimeError, match=r"Missing weights of adapter 'default': .*q_proj.hydralora_A"):
        PeftModel.from_pretrained(tiny_llama(), tmp_path, ignore_mismatched_sizes=True)


def test_adapter_of_another_base_model(hydra_llama: Any, tiny_llama: Any, tmp_path: Path) -> None:
    hydra_llama(target_modules=["q_proj"]).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=r"size mismatch for .*hydralora_A.*\[4, 32\]\) from checkpoint"):
        PeftModel.from_pretrained(tiny_llama(hidden_size=40), tmp_path)
    with pytest.raises(RuntimeError, match=r"Missing weights of adapter 'default': .*layers\.2"):
        PeftModel.from_pretrained(tiny_llama(num_hidden_layers=3), tmp_path)


@pytest.mark.skipif(not hasattr(BaseTuner, "_remap_adapter_state_dict_for_load"), reason="PEFT 0.20 only warns")
def test_weights_of_another_method(hydra_llama: Any, tiny_llama: Any, tmp_path: Path) -> None:
    hydra_llama().save_pretrained(tmp_path)
    edit_weights(tmp_path, renamed("hydralora_", "lora_"))
    with pytest.raises(ValueError, match=r"Expected weights named '\*\.hydralora_\*' .*got .*lora_A"):
        PeftModel.from_pretrained(tiny_llama(), tmp_path)


def test_names_that_the_model_does_not_have(tiny_llama: Any) -> None:
    config = HydraLoraConfig(target_modules=["q_proj"], modules_to_save=["lm_hed"], layers_to_transform=[0, 7])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        get_peft_model(tiny_llama(), config)
    said = " ".join(str(warning.message) for warning in caught)
    assert "none of these modules_to_save, so they are neither trained nor saved: lm_hed" in said
    assert "none of these layers_to_transform, so they are neither trained nor saved: 7" in said


def test_a_new_adapter_of_an_evaluated_model_drops_nothing_out(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama()
    model.add_adapter("other", HydraLoraConfig(target_modules=["q_proj"], lora_dropout=0.5, init_weights=False))
    model.set_adapter("other")
    expected = model(tokens).logits
    with record_gates(model, "other"):  # another path through the layer
        torch.testing.assert_close(model(tokens).logits, expected)
