"""Fixed gates and the plain LoRA that equals them: exact, portable, loaded where this package cannot be imported."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from hydralora import HydraLoraConfig, expert_gates
from hydralora.base_model import load_base_model
from hydralora.gates.calibration import calibrate_gates_by_group, compare_with_live
from hydralora.gates.export import export_lora, to_lora, to_merged
from hydralora.gates.fixed import fixed_gates, resolve_gates, set_fixed_gates
from hydralora.gates.recording import hydralora_layers
from hydralora.methods import MethodConfig, adapt

MakeModel = Callable[..., PeftModel]
GATES = torch.tensor([0.7, -0.2, 0.5])  # of any size and sign: what is exact for these is so for all

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hidden": {"router_input": "hidden"},
    "rslora": {"use_rslora": True, "lora_alpha": 5},
    "patterns": {"rank_pattern": {"v_proj": 6, "down_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    "rslora and patterns": {"use_rslora": True, "rank_pattern": {"v_proj": 6}, "alpha_pattern": {"v_proj": 3}},
    "expert always on": {"shared_expert": True},
    "sequence": {"router_input": "given", "shared_expert": True},
    "A for each": {"shared_a": False, "use_rslora": True},
    "shared LoRA": {"shared_rank": 5, "router_input": "given"},
    "shared LoRA, its own scaling": {"shared_rank": 5, "shared_alpha": 3},
    "shared LoRA, rslora": {"shared_rank": 5, "shared_alpha": 3, "use_rslora": True, "lora_alpha": 5},
    "shared LoRA, patterns": {
        "shared_rank": 2,
        "shared_alpha": 7,
        "use_rslora": True,
        "rank_pattern": {"v_proj": 6, "down_proj": 2},
        "alpha_pattern": {"q_proj": 3, "v_proj": 5},
    },
    "shared LoRA, A for each": {"shared_rank": 3, "shared_a": False, "rank_pattern": {"v_proj": 6}},
    "A for each, always on": {"shared_a": False, "shared_expert": True, "rank_pattern": {"v_proj": 6}},
}


def logits(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens).logits


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("portable", [True, False], ids=["portable", "as configured"])
def test_lora_equals_fixed_gates(
    hydra_llama: MakeModel,
    tiny_llama: Callable[..., LlamaForCausalLM],
    tokens: Tensor,
    tmp_path: Path,
    options: dict[str, Any],
    portable: bool,
) -> None:
    model = hydra_llama(**options)
    export_lora(model, tmp_path, GATES, portable=portable)
    with fixed_gates(model, GATES):
        expected = logits(model, tokens)
    plain = PeftModel.from_pretrained(tiny_llama(), tmp_path).eval()
    torch.testing.assert_close(logits(plain, tokens), expected, rtol=1e-5, atol=2e-6)
    assert (logits(tiny_llama(), tokens) - expected).abs().max() > 0.01


def test_portable_is_what_servers_read(hydra_llama: MakeModel, tmp_path: Path) -> None:
    """One rank, alpha equal to it (scaling 1), no patterns, and nothing but factors."""
    export_lora(hydra_llama(rank_pattern={"v_proj": 6}, alpha_pattern={"q_proj": 3}), tmp_path, "uniform")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (6, 6, False)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    state = load_file(tmp_path / "adapter_model.safetensors")
    assert len(state) == 2 * 14
    assert {tensor.shape[0] for key, tensor in state.items() if key.endswith("lora_A.weight")} == {6}
    assert {tensor.shape[1] for key, tensor in state.items() if key.endswith("lora_B.weight")} == {6}


def test_as_configured_keeps_rank_and_alpha(hydra_llama: MakeModel) -> None:
    config, state = to_lora(hydra_llama(rank_pattern={"v_proj": 6}, lora_alpha=5), 1, portable=False)
    assert (config.r, config.lora_alpha, config.rank_pattern) == (4, 5, {"v_proj": 6})
    assert state["base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"].shape == (6, 32)
    assert config.task_type == "CAUSAL_LM"


def test_split_is_one_lora_of_both_ranks(hydra_llama: MakeModel) -> None:
    """One-hot gates and one scaling for both parts: A stacked, B side by side, bit by bit, and one alpha / rank."""
    model = hydra_llama(shared_rank=16, r=3, lora_alpha=6, router_input="given")
    config, state = to_lora(model, 1, portable=False)
    assert (config.r, config.lora_alpha, config.rank_pattern, config.alpha_pattern) == (19, 38, {}, {})
    name, layer = next(iter(hydralora_layers(model).items()))
    a, b = layer.hydralora_A["default"].weight, layer.hydralora_B["default"].weight
    assert torch.equal(state[f"base_model.model.{name}.lora_A.weight"], a)
    assert torch.equal(state[f"base_model.model.{name}.lora_B.weight"], torch.cat((b[:, 3:6], b[:, 9:]), dim=1))


def test_without_this_package(
    hydra_llama: MakeModel, tiny_llama: Callable[..., LlamaForCausalLM], tokens: Tensor, tmp_path: Path
) -> None:
    """Where `hydralora` cannot be imported, the LoRA and the merged model give the same logits."""
    model = hydra_llama(shared_expert=True, rank_pattern={"v_proj": 6}, use_rslora=True)
    with fixed_gates(model, GATES):
        expected = logits(model, tokens)
    export_lora(model, tmp_path / "lora", GATES)
    to_merged(model, GATES).save_pretrained(tmp_path / "merged")
    tiny_llama().save_pretrained(tmp_path / "base")
    save_file({"tokens": tokens, "expected": expected}, tmp_path / "case.safetensors")
    script = """
import sys
sys.modules["hydralora"] = None  # any import of it fails
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

folder = sys.argv[1]
case = load_file(f"{folder}/case.safetensors")
merged = AutoModelForCausalLM.from_pretrained(f"{folder}/merged")
lora = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(f"{folder}/base"), f"{folder}/lora")
for model in (lora, merged):
    with torch.no_grad():
        logits = model(case["tokens"]).logits
    torch.testing.assert_close(logits, case["expected"], rtol=1e-5, atol=2e-6)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True)


def test_each_cluster_is_an_exact_lora(
    hydra_llama: MakeModel, tiny_llama: Callable[..., LlamaForCausalLM], tokens: Tensor, tmp_path: Path
) -> None:
    """Gates given by cluster: expert c and the one that is always on are the LoRA of cluster c, live routing itself."""
    model = hydra_llama(router_input="given", shared_expert=True, num_experts=4)
    for cluster in (0, 3):
        export_lora(model, tmp_path / str(cluster), gates=cluster)
        one_hot = torch.nn.functional.one_hot(torch.full((len(tokens),), cluster), 4).float()
        with expert_gates(model, one_hot):
            live = logits(model, tokens)
        plain = PeftModel.from_pretrained(tiny_llama(), tmp_path / str(cluster)).eval()
        torch.testing.assert_close(logits(plain, tokens), live, rtol=1e-5, atol=2e-6)
    a, b = (load_file(tmp_path / c / "adapter_model.safetensors") for c in ("0", "3"))
    key = "base_model.model.model.layers.1.mlp.up_proj.lora_{}.weight"
    assert torch.equal(a[key.format("A")], b[key.format("A")])
    assert not torch.equal(a[key.format("B")], b[key.format("B")])


def test_modules_to_save(
    hydra_llama: MakeModel, tiny_llama: Callable[..., LlamaForCausalLM], tokens: Tensor, tmp_path: Path
) -> None:
    model = hydra_llama(modules_to_save=["lm_head"], target_modules=["q_proj"])
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(2)
    with fixed_gates(model, "uniform"):
        expected = logits(model, tokens)
    with pytest.raises(ValueError, match=r"lm_head.weight: vLLM and llama.cpp load no such.*portable=False"):
        to_lora(model, "uniform")
    export_lora(model, tmp_path, "uniform", portable=False)
    plain = PeftModel.from_pretrained(tiny_llama(), tmp_path).eval()
    torch.testing.assert_close(logits(plain, tokens), expected, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(logits(to_merged(model, "uniform"), tokens), expected, rtol=1e-5, atol=2e-6)


def test_bfloat16_rounds_once(hydra_llama: MakeModel) -> None:
    model = hydra_llama(target_modules=["q_proj"]).to(torch.bfloat16)
    layer = next(iter(hydralora_layers(model).values()))
    blocks = layer.hydralora_B["default"].weight.double().unflatten(1, (3, 4))
    expected = (blocks * GATES.double()[:, None]).sum(1).to(torch.bfloat16)
    _, state = to_lora(model, GATES, portable=False)
    assert torch.equal(state["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"], expected)


def test_one_expert_needs_no_gates(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama(num_experts=1)
    expected = logits(model, tokens)
    torch.testing.assert_close(logits(to_merged(model), tokens), expected, rtol=1e-5, atol=2e-6)


def test_static_gates_come_and_go(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama()
    live = logits(model, tokens)
    set_fixed_gates(model, 2)
    fixed = logits(model, tokens)
    with fixed_gates(model, "uniform"):
        assert not torch.equal(logits(model, tokens), fixed)
        with fixed_gates(model, None):
            assert torch.equal(logits(model, tokens), live)
    assert torch.equal(logits(model, tokens), fixed)
    set_fixed_gates(model, None)
    assert torch.equal(logits(model, tokens), live)
    assert all(torch.equal(gates, torch.tensor([0.0, 1.0, 0.0])) for gates in resolve_gates(model, 1).values())


def test_merged_adapters_keep_their_gates(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama()
    live = logits(model, tokens)
    set_fixed_gates(model, 0)
    fixed = logits(model, tokens)
    model.merge_adapter()
    torch.testing.assert_close(logits(model, tokens), fixed, rtol=1e-5, atol=2e-6)
    with pytest.raises(ValueError, match="'default' is merged with its present gates: unmerge"):
        set_fixed_gates(model, None)
    model.unmerge_adapter()
    set_fixed_gates(model, None)
    torch.testing.assert_close(logits(model, tokens), live, rtol=1e-5, atol=2e-6)


BAD_GATES: dict[str, Any] = {
    "none while live": (None, "depend on the input. Pass fixed gates"),
    "wrong length": (torch.ones(4), r"shape \[3\], an expert from 0 to 2.* got \[4\]"),
    "no such expert": (3, "an expert from 0 to 2"),
    "not finite": (torch.tensor([1.0, float("nan"), 0.0]), "finite"),
    "word": ("mean", "got 'mean'"),
    "layers missing": ({}, "gates for the 14 adapted layers, e.g. 'model.layers.0.self_attn.q_proj'"),
}


@pytest.mark.parametrize(("gates", "message"), BAD_GATES.values(), ids=BAD_GATES)
def test_gates_that_do_not_fit(hydra_llama: MakeModel, gates: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_lora(hydra_llama(), gates)


def test_unknown_adapter(hydra_llama: MakeModel) -> None:
    with pytest.raises(ValueError, match=r"HydraLoRA adapter 'other', got one with the adapters \['default'\]"):
        to_lora(hydra_llama(), 0, adapter_name="other")


@pytest.mark.slow
def test_on_the_embedded_base(shared_corpora: Path, tmp_path: Path) -> None:
    """Real text of two sources, a briefly trained adapter: an exact LoRA for each, and the gap to live routing."""
    base, tokenizer = load_base_model("embedded", dtype=torch.float32, device="cpu")
    batches = [{**source_batch(shared_corpora, name, tokenizer), "group": [name] * 4} for name in ("gsm8k", "medquad")]
    torch.manual_seed(0)
    model = adapt(base, "hydralora", MethodConfig(num_experts=3))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for step in range(6):
        inputs = {key: value for key, value in batches[step % 2].items() if key != "group"}
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    gates = calibrate_gates_by_group(model, batches)
    for name, batch in zip(gates, batches, strict=True):
        gap = compare_with_live(model, gates[name], [batch])
        assert abs(gap.loss_difference) < 0.2
        assert 0 < gap.mean_kl < 0.2
        export_lora(model, tmp_path / name, gates[name])
        with fixed_gates(model, gates[name]):
            expected = logits(model, batch["input_ids"])
        other_base, _ = load_base_model("embedded", dtype=torch.float32, device="cpu")
        plain = PeftModel.from_pretrained(other_base, tmp_path / name)
        torch.testing.assert_close(logits(plain, batch["input_ids"]), expected, rtol=1e-4, atol=1e-3)


def source_batch(corpora: Path, name: str, tokenizer: Any) -> dict[str, Tensor]:
    rows = parquet.read_table(corpora / f"{name}_train.parquet").slice(0, 4).to_pylist()
    texts = [" ".join(value for value in row.values() if isinstance(value, str)) for row in rows]
    batch = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=64)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return {**batch, "labels": labels}


def test_fixed_gates_are_a_copy(hydra_llama: MakeModel, tokens: Tensor) -> None:
    """A vector that its owner changes later must not change a model, least of all a merged one."""
    model, gates = hydra_llama(), torch.tensor([1.0, 0.0, 0.0])
    with model.disable_adapter():
        base = logits(model, tokens)
    set_fixed_gates(model, gates)
    expected = logits(model, tokens)
    gates.zero_()
    assert torch.equal(logits(model, tokens), expected)
    set_fixed_gates(model, gates)
    model.merge_adapter()
    gates[1] = 1
    model.unmerge_adapter()
    with model.disable_adapter():
        torch.testing.assert_close(logits(model, tokens), base, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("portable", [True, False])
def test_an_exported_state_is_a_copy(hydra_llama: MakeModel, portable: bool) -> None:
    model = hydra_llama()
    _, state = to_lora(model, 0, portable=portable)
    before = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(state[name], before[name]) for name in state)
    assert not any(tensor.requires_grad for tensor in state.values())


def test_an_export_does_not_replace_the_adapter_it_is_made_from(hydra_llama: MakeModel, tmp_path: Path) -> None:
    model = hydra_llama()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a folder without another adapter, got .* with one of kind HYDRALORA"):
        export_lora(model, tmp_path, 0)
    assert any("hydralora_B" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    export_lora(model, tmp_path / "lora", 0)
    export_lora(model, tmp_path / "lora", 1)  # an export may replace an earlier one


@pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT", "ignore:Already found a `peft_config`")
def test_adapters_of_the_base_model_are_not_lost(
    tiny_llama: Callable[..., LlamaForCausalLM], tokens: Tensor, tmp_path: Path
) -> None:
    """PEFT warns about a second model around a first one; its `unload` then takes off both."""
    lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    inner, injected = get_peft_model(tiny_llama(), lora), inject_adapter_in_model(lora, tiny_llama())
    for base in (inner, injected):
        model = get_peft_model(base, HydraLoraConfig(target_modules=["q_proj"], num_experts=1, init_weights=False))
        expected = logits(model.eval(), tokens)
        for doing in (lambda: to_merged(model), lambda: export_lora(model, tmp_path)):  # noqa: B023
            with pytest.raises(ValueError, match=r"a base model without adapters, got .*\(`merge_and_unload`\)"):
                doing()
        assert torch.equal(logits(model, tokens), expected)


@pytest.mark.parametrize("gates", [True, [0.5, 0.5, 0.0], torch.tensor([1j, 0, 0]), torch.tensor(1)])
def test_gates_of_other_types(hydra_llama: MakeModel, gates: Any) -> None:
    with pytest.raises(ValueError, match=r"gates as a finite tensor of shape \[3\], an expert from 0 to 2"):
        set_fixed_gates(hydra_llama(), gates)


def test_an_expert_may_be_an_integer_of_numpy(hydra_llama: MakeModel) -> None:
    assert all(gates.tolist() == [0, 1, 0] for gates in resolve_gates(hydra_llama(), np.int64(1)).values())
