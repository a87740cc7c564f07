"""Gates given from outside, for each sequence or token (router_input="sequence"), for instance of a corpus model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hydralora.adapter.layer import HydraLoraLayer


@contextmanager
def expert_gates(model: nn.Module, gates: Tensor) -> Iterator[None]:
    """Give the gates of each sequence, or of each token, to all layers of a model while the context lasts.

        with hydralora.expert_gates(model, gates):
            model.generate(**batch)

    A forward pass alone can take them as an argument: `model(**batch, expert_gates=gates)`.

    Under gradient checkpointing, backward runs layers again after the context has ended; they then use the gates of the
    last context that ended. So call backward before the next forward pass, as PEFT asks for aLoRA too.

    Args:
        model: with HydraLoRA adapters; those with a router of their own ignore these gates.
        gates: [batch, N], used as they are: not normalised. [batch, length, N] for gates of each token, as a row needs
            that holds several documents. Or integers [batch] or [batch, length]: the number of the one expert that is
            on, -1 for none.

    Raises:
        ValueError: an expert that an adapter does not have. (Numbers on a GPU are not looked at, since that would make
            it wait: a wrong one makes the outputs NaN.)
    """
    layers = [module for module in model.modules() if isinstance(module, HydraLoraLayer)]
    if not gates.is_floating_point():
        _check_index(gates, layers)
    before = [layer.sequence_gates for layer in layers]
    for layer in layers:
        layer.sequence_gates = gates
    try:
        yield
    finally:
        kept = gates if torch.is_grad_enabled() else None
        for layer, previous in zip(layers, before, strict=True):
            layer.sequence_gates, layer.recompute_gates = previous, kept


def _check_index(index: Tensor, layers: list[HydraLoraLayer]) -> None:
    experts = min(
        (
            layer.num_experts[name]
            for layer in layers
            for name, kind in layer.router_input.items()
            if kind == "sequence"
        ),
        default=None,
    )
    if experts is None or index.device.type != "cpu" or index.numel() == 0 or torch.compiler.is_compiling():
        return
    if int(index.min()) < -1 or int(index.max()) >= experts:
        raise ValueError(
            f"Expected integer expert_gates from 0 to {experts - 1}, or -1 for no expert, got {int(index.min())} to "
            f"{int(index.max())}"
        )
