"""Avoids walks through all modules of a model in each step.

An adapted model of 30 layers has 2,500 modules. `train()`, `zero_grad()` and `parameters()` visit all of them and take
5 ms each. For a small model this is a quarter of a step's time, and the GPU waits meanwhile.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def fewer_walks(
    model: nn.Module, trained: Sequence[nn.Parameter], keeps_gradients: Callable[[], bool]
) -> Iterator[None]:
    """Let `train()` do nothing if the model is in training mode, and `zero_grad()` visit only the trained parameters.

    Args:
        model: The model that the training loop calls, with all modules in training mode.
        trained: Its parameters that get gradients.
        keeps_gradients: Whether `zero_grad()` must write zeros into the gradients instead of dropping them.
    """

    def train(mode: bool = True) -> nn.Module:
        return model if mode and model.training else type(model).train(model, mode)

    def zero_grad(set_to_none: bool = True) -> None:
        if not set_to_none:
            type(model).zero_grad(model, set_to_none=False)
            return
        if keeps_gradients():
            gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
            if gradients:
                torch._foreach_zero_(gradients)
            return
        for parameter in trained:
            parameter.grad = None

    attributes: dict[str, Any] = {"train": train, "zero_grad": zero_grad}
    model.__dict__.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            model.__dict__.pop(name, None)
