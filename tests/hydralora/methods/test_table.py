"""The table of methods: every row trains, bad settings are refused first, and what some rows are equal to."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from hydralora.base_model import load_base_model
from hydralora.methods import METHODS, MethodConfig, MethodError, adapt, get_method, matched_rank
from hydralora.methods.parameters import count_parameters

MakeModel = Callable[..., LlamaForCausalLM]
SETTINGS = MethodConfig(num_experts=3, total_steps=20, match_parameters=5000, num_virtual_tokens=4)


@pytest.mark.parametrize("name", METHODS)
def test_every_row_trains(tiny_llama: MakeModel, tokens: Tensor, name: str) -> None:
    """The loss falls, and (but for full fine-tuning) the base weights stay."""
    base = tiny_llama()
    before = {key: value.clone() for key, value in base.state_dict().items()}
    model = adapt(base, name, SETTINGS).train()
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
    if name in ("hydralora_sequence", "hydralora_split"):
        inputs["expert_gates"] = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    losses = train(model, inputs, steps=8)
    assert losses[-1] < losses[0]
    if name != "full":
        after = {key.replace(".base_layer", ""): value for key, value in model.get_base_model().state_dict().items()}
        assert all(torch.equal(after[key], value) for key, value in before.items())


def train(model: torch.nn.Module, inputs: dict[str, Tensor], steps: int, learning_rate: float = 1e-2) -> list[float]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, eps=1e-30)
    losses = []
    for _ in range(steps):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_lora_split_is_one_lora(tiny_llama: MakeModel, tokens: Tensor) -> None:
    """Four LoRAs of rank 8, active together, train exactly as the one of rank 32 that the table makes of them."""
    inputs = {"input_ids": tokens, "labels": tokens}
    one = adapt(tiny_llama(), "lora_split_8x4", MethodConfig()).double()
    four = get_peft_model(tiny_llama(), split_part(), adapter_name="0").double()
    for i in range(1, 4):
        four.add_adapter(str(i), split_part())
    four.double().base_model.set_adapter(["0", "1", "2", "3"])
    for (name, whole), part in zip(lora_layers(one), [layer for _, layer in lora_layers(four)], strict=True):
        rows = [part.lora_A[str(i)].weight for i in range(4)]
        whole.lora_A["default"].weight.data = torch.cat(rows).detach().clone()
        assert whole.scaling["default"] == part.scaling["0"], name
    assert count_parameters(one).total == sum(count_parameters(four, str(i)).total for i in range(4))
    torch.testing.assert_close(train(one, inputs, 5), train(four, inputs, 5), rtol=1e-12, atol=1e-12)


def split_part() -> LoraConfig:
    return LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])


def lora_layers(model: PeftModel) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]


def test_without_gate_is_one_lora(tiny_llama: MakeModel, tokens: Tensor) -> None:
    """With uniform gates all B_i get the same gradient and stay equal: their mean is the B of plain LoRA, since Adam
    does not feel that each gradient is a third."""
    inputs = {"input_ids": tokens, "labels": tokens}
    uniform = adapt(tiny_llama(), "without_gate", MethodConfig(num_experts=3)).double()
    lora = adapt(tiny_llama(), "without_moe", MethodConfig()).double()
    for ours, plain in zip(hydra_layers(uniform), hydra_layers(lora), strict=True):
        plain.hydralora_A["default"].weight.data = ours.hydralora_A["default"].weight.detach().clone()
    torch.testing.assert_close(train(uniform, inputs, 5), train(lora, inputs, 5), rtol=1e-9, atol=1e-9)
    b = hydra_layers(uniform)[0].hydralora_B["default"].weight.unflatten(1, (3, 8))
    torch.testing.assert_close(b[:, 0], b[:, 2])
    assert b.abs().max() > 0


def hydra_layers(model: PeftModel) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "hydralora_A")]


def test_ranks_keep_alpha_over_r(tiny_llama: MakeModel) -> None:
    model = tiny_llama()
    settings = MethodConfig(lora_alpha=12)
    scales = {
        name: get_method(name).config(model, settings).lora_alpha / get_method(name).config(model, settings).r
        for name in ("hydralora", "lora_r8", "lora_r16", "lora_r32", "lora_split_4x8", "lora_moe")
    }
    assert set(scales.values()) == {1.5}


def test_matched_rank_is_the_nearest(tiny_llama: MakeModel) -> None:
    """q is 32 -> 32 and v 32 -> 16 in two layers, so a rank has 2 x (64 + 48) = 224 parameters."""
    model = tiny_llama()
    assert [matched_rank(model, MethodConfig(), count) for count in (112, 224, 224 * 7 + 100, 224 * 7 + 130)] == [
        1,
        1,
        7,
        8,
    ]
    hydra = get_method("hydralora").parameters(model, MethodConfig())
    matched = get_method("lora_matched").parameters(model, MethodConfig(match_parameters=hydra.total))
    assert abs(matched.total - hydra.total) <= 112
    with pytest.raises(MethodError, match="at least 224"):
        matched_rank(model, MethodConfig(), 50)


def test_gpt2_has_other_names() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, bos_token_id=0, eos_token_id=0))
    with pytest.raises(
        MethodError, match=r"layers of GPT2LMHeadModel, got 'q_proj'. It has c_attn \(1\), c_proj \(2\)"
    ):
        adapt(model, "hydralora", MethodConfig())
    counts = get_method("ia3").parameters(model, MethodConfig())
    assert counts.total == 3 * 8 + 4 * 8  # outputs of c_attn, inputs of the second layer of the MLP


BAD = {
    "unknown method": ("lora_r9", {}, r"one of the methods hydralora, lora_r8.* got 'lora_r9'"),
    "half of the modules": ("lora_r8", {"target_modules": ("q_proj", "query")}, r"got 'query'. It has q_proj \(2\)"),
    "one expert": ("lora_moe", {"num_experts": 1}, "at least 2 for lora_moe, got 1"),
    "no schedule": ("adalora", {}, "adalora needs total_steps"),
    "nothing to match": ("lora_matched", {}, "lora_matched needs match_parameters"),
}


@pytest.mark.parametrize(("name", "settings", "message"), BAD.values(), ids=BAD)
def test_refused_before_training(tiny_llama: MakeModel, name: str, settings: dict[str, Any], message: str) -> None:
    model = tiny_llama()
    names = set(model.state_dict())
    with pytest.raises(MethodError, match=message):
        adapt(model, name, MethodConfig(**settings))
    assert set(model.state_dict()) == names


@pytest.mark.parametrize("field", ["r", "lora_alpha", "num_experts", "num_virtual_tokens"])
def test_settings_out_of_range(field: str) -> None:
    with pytest.raises(MethodError, match=f"Expected {field} of at least 1, got 0"):
        MethodConfig(**{field: 0})


@pytest.mark.parametrize(("num_experts", "r"), [(2, 5), (3, 6), (6, 7), (10, 7), (16, 8)])
def test_the_always_on_expert_is_paid_for_by_the_rank(tiny_llama: MakeModel, num_experts: int, r: int) -> None:
    settings = dataclasses.replace(SETTINGS, num_experts=num_experts)
    config = get_method("hydralora_sequence").config(tiny_llama(), settings)
    assert (config.r, config.lora_alpha) == (r, 2 * r)
    assert (config.num_experts, config.shared_expert, config.router_input) == (num_experts, True, "given")
    ours, routed = (get_method(name).parameters(tiny_llama(), settings) for name in ("hydralora_sequence", "hydralora"))
    assert ours.b + ours.shared_expert == pytest.approx(routed.b, rel=0.07)


@pytest.mark.parametrize(("num_experts", "shared_rank", "r"), [(2, 7, 3), (3, 9, 3), (6, 16, 3), (32, 75, 3)])
def test_split_is_as_large_as_hydralora(tiny_llama: MakeModel, num_experts: int, shared_rank: int, r: int) -> None:
    settings = dataclasses.replace(SETTINGS, num_experts=num_experts)
    config = get_method("hydralora_split").config(tiny_llama(), settings)
    assert (config.shared_rank, config.r, config.lora_alpha, config.shared_alpha) == (shared_rank, r, 2 * r, None)
    ours, routed = (get_method(name).parameters(tiny_llama(), settings) for name in ("hydralora_split", "hydralora"))
    assert ours.total == pytest.approx(routed.total, rel=0.3)
    assert ours.shared_lora > ours.a


def test_split_of_chosen_ranks(tiny_llama: MakeModel) -> None:
    settings = MethodConfig(r=3, lora_alpha=6, num_experts=6, shared_rank=16)
    method = get_method("hydralora_split")
    config = method.config(tiny_llama(), settings)
    assert (config.r, config.shared_rank, config.lora_alpha, config.router_input) == (3, 16, 6, "given")
    size = method.parameters(tiny_llama(), settings).total
    matched = get_method("lora_matched").parameters(tiny_llama(), MethodConfig(match_parameters=size))
    assert abs(matched.total - size) <= 112
    with pytest.raises(MethodError, match="shared_rank of at least 1, or None, got 0"):
        MethodConfig(shared_rank=0)


def test_other_settings_out_of_range() -> None:
    with pytest.raises(MethodError, match=r"lora_dropout from 0 to below 1, got 1\.5"):
        MethodConfig(lora_dropout=1.5)
    with pytest.raises(MethodError, match="at least one of target_modules"):
        MethodConfig(target_modules=())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_row_trains_on_the_embedded_base(name: str) -> None:
    """Prompt methods start from random virtual tokens: the loss falls, if from far."""
    base, tokenizer = load_base_model("embedded", dtype=torch.float32, device="cpu")
    text = ["Question: how many experts does a corpus deserve?\nAnswer: as many as it has parts.", "2 + 2 = 4"]
    inputs = dict(tokenizer(text, return_tensors="pt", padding=True))
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    settings = dataclasses.replace(SETTINGS, match_parameters=700_000)
    torch.manual_seed(0)
    model = adapt(base, name, settings).train()
    if name in ("hydralora_sequence", "hydralora_split"):
        inputs["expert_gates"] = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    losses = train(model, inputs, steps=3, learning_rate=1e-4 if name == "full" else 5e-3)
    assert losses[-1] < losses[0]
