"""Layers that an adapter cannot act on are left alone, and said so; everything that is adapted learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from hydralora import HydraLoraConfig, export_lora
from hydralora.adapter.unfit_layers import fused_experts, read_as_experts, unfit_layers, weights_read_by
from hydralora.methods import MethodConfig, MethodError, adapt, get_method, target_shapes

LLAMA = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def mamba() -> Any:
    torch.manual_seed(0)
    return transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
    )


def mixtral() -> Any:
    torch.manual_seed(0)
    sizes = {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**LLAMA, **sizes))


def deepseek() -> Any:
    """Its dense first layer and its shared expert have layers named like the experts, which are fused."""
    torch.manual_seed(0)
    sizes = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 8}
    heads = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
    options = {**LLAMA, **sizes, **heads, "num_key_value_heads": 4, "first_k_dense_replace": 1}
    return transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**options))


def config(**options: Any) -> HydraLoraConfig:
    return HydraLoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options})


class Reader(nn.Module):
    """One layer is called, one is read, of one only facts are read."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read, self.asked = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.read.weight.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.called(x.to(self.asked.weight.dtype))
        if isinstance(self.asked.weight, Tensor):
            x = self.asked(x)
        return x @ self.read.weight.T


def test_which_weights_are_read() -> None:
    assert weights_read_by(Reader) == {"read"}
    assert list(unfit_layers(nn.Sequential(Reader()))) == ["0.read"]
    assert not unfit_layers(transformers.BloomModel(transformers.BloomConfig(vocab_size=8, hidden_size=8, n_head=2)))


def test_mamba_learns_wherever_it_is_adapted(tokens: Tensor) -> None:
    with pytest.warns(UserWarning, match=r"Left alone.*dt_proj \(MambaMixer reads its weight instead of calling it\)"):
        model = get_peft_model(mamba(), config()).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1.0)
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    b = {name: p for name, p in model.named_parameters() if "hydralora_B" in name}
    assert b
    assert all(p.abs().sum() > 0 for p in b.values())
    assert not any("dt_proj" in name or "out_proj" in name for name in b)


def test_nothing_left_to_adapt() -> None:
    base = mamba()
    with pytest.raises(ValueError, match=r"Expected target_modules that an adapter can act on, got .*dt_proj"):
        get_peft_model(base, config(target_modules=["dt_proj"]))
    assert not any("hydralora" in name for name, _ in base.named_modules())


@pytest.mark.filterwarnings("ignore:The experts of this mixture:UserWarning")
def test_a_router_that_is_no_linear_layer(tokens: Tensor) -> None:
    sizes = {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2}
    text = transformers.Llama4TextConfig(**LLAMA, **sizes, interleave_moe_layer_step=1, pad_token_id=0)
    with pytest.warns(UserWarning, match="the forward pass of Llama4Router returns no output of a linear layer"):
        model = get_peft_model(transformers.Llama4ForCausalLM(text), config())
    model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()


def test_attention_of_pytorch() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True)
    options = {"task_type": None, "target_modules": ["out_proj", "linear1", "linear2"], "init_weights": False}
    with pytest.warns(UserWarning, match="self_attn.out_proj"):
        model = get_peft_model(nn.TransformerEncoder(layer, 2), config(**options))
    x = torch.randn(2, 5, 16)
    training = model.train()(x)
    (training * torch.randn_like(x)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    with torch.no_grad():  # where PyTorch would take its fast path
        torch.testing.assert_close(model.eval()(x), training.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The experts of this mixture:UserWarning")
def test_experts_that_are_left_out_are_named() -> None:
    assert len(fused_experts(mixtral())) == 4
    with pytest.warns(UserWarning, match="this mixture are not adapted: 4 parameters such as .*gate_up_proj"):
        get_peft_model(mixtral(), config())
    with pytest.warns(UserWarning, match="names of target_modules: up_proj"):
        get_peft_model(mixtral(), config(target_modules=["q_proj", "up_proj"]))


@pytest.mark.filterwarnings("ignore:The experts of this mixture:UserWarning", "ignore:Left alone:UserWarning")
@pytest.mark.parametrize("make", [mixtral, mamba, deepseek])
def test_every_method_adapts_the_same_layers(make: Any) -> None:
    settings = MethodConfig(target_modules="all-linear", total_steps=100)

    def shapes(name: str) -> list[Any]:
        base = make()
        return list(target_shapes(get_method(name).config(base, settings), base))

    expected = shapes("hydralora")
    assert expected
    for name in ("lora_r8", "without_hydra", "lora_moe", "adalora"):
        assert shapes(name) == expected


@pytest.mark.filterwarnings("ignore:The experts of this mixture:UserWarning")
@pytest.mark.parametrize("name", ["hydralora", "lora_r8", "lora_matched"])
@pytest.mark.parametrize("make", [mixtral, deepseek])
def test_sizes_on_a_mixture_of_experts(make: Any, name: str) -> None:
    settings = MethodConfig(target_modules="all-linear", match_parameters=9000)
    counted = sum(p.numel() for p in adapt(make(), name, settings).parameters() if p.requires_grad)
    assert get_method(name).parameters(make(), settings).total == counted
    if name == "lora_matched":
        assert counted == pytest.approx(9000, rel=0.1)


def test_no_closed_form_for_adapted_parameters() -> None:
    from peft import LoraConfig

    from hydralora.methods import expected_parameters

    for options in ({"target_modules": "all-linear"}, {"target_modules": [], "target_parameters": ["gate_up_proj"]}):
        with pytest.raises(ValueError, match=r"parameters of fused experts too.*Name the layers"):
            expected_parameters(LoraConfig(**options), mixtral())


@pytest.mark.filterwarnings("ignore:The experts of this mixture:UserWarning")
def test_names_that_peft_reads_as_experts(tmp_path: Path) -> None:
    """PEFT's LoRA of DeepSeek-V3 takes `gate_proj` for the fused experts, also in a layer without experts."""
    names = [name for name, module in deepseek().named_modules() if isinstance(module, nn.Linear)]
    misread = read_as_experts(deepseek(), names)
    assert "model.layers.0.mlp.gate_proj" in misread
    assert "model.layers.1.mlp.shared_experts.down_proj" in misread
    assert not any("self_attn" in name for name in misread)
    assert not read_as_experts(mixtral(), [name for name in names if "self_attn" in name])
    with pytest.raises(MethodError, match=r"layers\.0\.mlp\..*whose names PEFT's LoRA reads as the experts"):
        get_method("hydralora").config(deepseek(), MethodConfig(target_modules=("q_b_proj", "up_proj")))
    model = get_peft_model(deepseek(), config(router_input="uniform"))
    with pytest.raises(ValueError, match=r"would drop their weights.*exclude_modules"):
        export_lora(model, tmp_path, portable=False)
    with pytest.warns(UserWarning, match=r"would drop their weights.*Servers other than PEFT are not concerned"):
        export_lora(model, tmp_path)


def test_layers_that_were_left_alone_are_not_exported(tokens: Tensor, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Left alone"):
        model = get_peft_model(mamba(), config(router_input="uniform", init_weights=False)).eval()
    export_lora(model, tmp_path)
    plain = PeftModel.from_pretrained(mamba(), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-5)
