"""Activations that wait in the machine's memory."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hydralora.training import TrainingConfig, TrainingError
from hydralora.training.step.graphs import graphs_refusal
from hydralora.training.step.offloading import Offloaded, check_can_offload
from tests.hydralora.small import small_model


def trainable(checkpointing: bool) -> Any:
    model: Any = small_model().requires_grad_(True).train()
    if checkpointing:  # transformers 5 renames this method and warns about the old name
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model


def gradients(checkpointing: bool, device: str = "cpu") -> tuple[list[torch.Tensor], list[torch.Tensor], int]:
    """Without and with offloading, and the bytes that were copied."""
    model = trainable(checkpointing).to(device)
    tokens = torch.arange(1, 41, device=device).reshape(2, 20)
    away = Offloaded(model, small=0)
    found = []
    for context in (nullcontext(), away):
        model.zero_grad()
        with context:
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    return found[0], found[1], away.copied


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_same_bits(checkpointing: bool) -> None:
    one, other, copied = gradients(checkpointing)
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    assert copied >= 2 * 40 * 32 * 4  # the inputs of both layers


def test_checkpoints_leave_little_to_copy() -> None:
    copied = []
    for checkpointing in (False, True):
        model = trainable(checkpointing)
        away = Offloaded(model.model, small=0)
        with away:
            model.model(input_ids=torch.arange(1, 41).reshape(2, 20), use_cache=False)
        copied.append(away.copied)
    assert 0 < copied[1] < copied[0] / 3


def test_weights_and_small_tensors_stay() -> None:
    layer = torch.nn.Linear(8, 8)
    state = torch.ones(4, 8, requires_grad=True)
    away = Offloaded(layer, small=4 * 8 * 4 + 1)
    with away:
        layer(state.tanh()).sum()
    assert away.copied == 0


@pytest.mark.parametrize(
    ("device", "options", "expected"),
    [
        ("cpu", {}, "the model is on cpu"),
        ("cuda", {"fsdp": True}, "fsdp holds weights"),
        ("cuda", {"cuda_graphs": True}, "replays kernels"),
    ],
)
def test_what_does_not_go_together_is_refused(device: str, options: dict[str, Any], expected: str) -> None:
    model = SimpleNamespace(device=torch.device(device))
    config = TrainingConfig(max_steps=1, activation_offloading=True, **options)
    with pytest.raises(TrainingError, match=expected):
        check_can_offload(model, config)


def test_no_graphs_are_recorded() -> None:
    model = SimpleNamespace(device=torch.device("cuda"))
    config = TrainingConfig(max_steps=1, activation_offloading=True)
    check_can_offload(model, config)
    assert "activation_offloading" in str(graphs_refusal(model, None, config, packed=True, processes=1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    one, other, copied = gradients(True, "cuda")
    assert copied
    torch.testing.assert_close(one, other)
