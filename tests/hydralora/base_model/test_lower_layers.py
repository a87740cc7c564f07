"""Layers below the lowest adapter run once for a batch; whatever could change their output makes them run again."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from hydralora.base_model import lower_layers, remembered_lower_layers
from hydralora.base_model.sharing import take_off_adapters
from tests.hydralora.small import small_model

TOKENS = torch.arange(12).view(2, 6)
OTHERS = TOKENS + 1


def adapted(base: Any, layer: int = 1) -> Any:
    config = LoraConfig(
        r=2, target_modules=["q_proj"], layers_to_transform=[layer], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    return get_peft_model(base, config)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[int]]:
    """Counts how often the lowest layer of a model runs."""

    def watch(base: Any) -> list[int]:
        counted: list[int] = []
        kind = type(base.model.layers[0].self_attn)
        forward = kind.forward

        def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.layer_idx == 0:
                counted.append(1)
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(kind, "forward", counting)
        return counted

    return watch


@torch.inference_mode()
def logits(model: Any, tokens: Tensor) -> Tensor:
    with remembered_lower_layers(model):
        return model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits


def test_a_batch_that_comes_again_skips_them_under_another_adapter_too(runs: Any) -> None:
    base = small_model()
    counted = runs(base)
    plain = {}
    for name, tokens in (("a", TOKENS), ("b", OTHERS)):
        with torch.inference_mode():
            plain[name] = base(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
    counted.clear()
    first = logits(model := adapted(base), TOKENS)
    assert torch.equal(logits(model, TOKENS), first)
    assert len(counted) == 1
    take_off_adapters(base)
    second = logits(adapted(base), TOKENS)
    assert not torch.equal(second, first)
    assert len(counted) == 1
    take_off_adapters(base)
    assert torch.equal(logits(base, TOKENS), plain["a"])  # without any adapter
    assert len(counted) == 1
    assert torch.equal(logits(base, OTHERS), plain["b"])
    assert len(counted) == 2
    assert not any("forward" in module.__dict__ for module in base.modules())


def test_batches_that_skipped_them_are_counted() -> None:
    model = adapted(small_model())
    with remembered_lower_layers(model) as remembered, torch.inference_mode():
        for tokens in (TOKENS, OTHERS, TOKENS):
            model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
    assert remembered.batches == 1


def test_a_training_gets_the_same_gradients(runs: Any) -> None:
    model = adapted(base := small_model())
    counted = runs(base)
    found: list[list[Tensor]] = []
    for _ in range(2):
        model.zero_grad()
        with remembered_lower_layers(model):
            model(input_ids=TOKENS, labels=TOKENS, use_cache=False).loss.backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(counted) == 1
    assert found[0]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("kind", ["weights", "mask", "hook", "autocast"])
def test_what_changes_the_output_makes_them_run(kind: str, runs: Any) -> None:
    model = adapted(base := small_model())
    counted = runs(base)
    logits(model, TOKENS)
    mask = torch.ones_like(TOKENS)
    if kind == "weights":
        base.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1.0
    if kind == "mask":
        mask[0, :3] = 0
    if kind == "hook":
        base.model.layers[0].register_forward_hook(lambda *_: None)
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"),
    ):
        expected = model(input_ids=TOKENS, attention_mask=mask, use_cache=False).logits
        with remembered_lower_layers(model):
            counted.clear()
            assert torch.equal(model(input_ids=TOKENS, attention_mask=mask, use_cache=False).logits, expected)
    assert len(counted) == 1


@pytest.mark.parametrize("kind", ["lowest adapted", "trained", "dropout"])
def test_models_without_frozen_lower_layers_are_left_alone(kind: str) -> None:
    model = base = small_model()
    if kind == "lowest adapted":
        model = adapted(base, layer=0)
    if kind == "trained":
        base.requires_grad_(True)
    if kind == "dropout":
        model = adapted(base)
        base.config.attention_dropout = 0.1
    with remembered_lower_layers(model):
        assert not any("forward" in module.__dict__ for module in base.modules())


def test_the_oldest_batch_is_forgotten_first(monkeypatch: pytest.MonkeyPatch, runs: Any) -> None:
    model = adapted(base := small_model())
    counted = runs(base)
    logits(model, TOKENS)
    (kept,) = lower_layers._memories[base].outputs.values()
    monkeypatch.setattr(lower_layers, "_MOST_BYTES", kept.nbytes)
    for tokens in (OTHERS, OTHERS, TOKENS):
        logits(model, tokens)
    assert len(counted) == 3
    assert len(lower_layers._memories[base].outputs) == 1
