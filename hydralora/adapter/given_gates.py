"""Gates given from outside, one vector for each sequence (router_input="sequence"), for instance of a corpus model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hydralora.adapter.layer import HydraLoraLayer


@contextmanager
def expert_gates(model: nn.Module, gates: Tensor) -> Iterator[None]:
    """Give the gates of each sequence to all layers of a model while the context lasts.

        with hydralora.expert_gates(model, gates):
            model.generate(**batch)

    A forward pass alone can take them as an argument: `model(**batch, expert_gates=gates)`.

    Under gradient checkpointing, backward runs layers again after the context has ended; they then use the gates of the
    last context that ended. So call backward before the next forward pass, as PEFT asks for aLoRA too.

    Args:
        model: with HydraLoRA adapters; those with a router of their own ignore these gates.
        gates: [batch, N], or [batch, length, N] for each token, used as they are: not normalised.
    """
    layers = [module for module in model.modules() if isinstance(module, HydraLoraLayer)]
    before = [layer.sequence_gates for layer in layers]
    for layer in layers:
        layer.sequence_gates = gates
    try:
        yield
    finally:
        kept = gates if torch.is_grad_enabled() else None
        for layer, previous in zip(layers, before, strict=True):
            layer.sequence_gates, layer.recompute_gates = previous, kept
