"""Gates fixed by hand: one vector of N for each layer in place of the router, given in one of several forms."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hydralora.adapter.layer import HydraLoraLayer
from hydralora.adapter.state import hydralora_layers

# By layer name, one vector [N] for every layer, the number of one expert, or "uniform" for 1 / N.
GateSpec = Mapping[str, Tensor] | Tensor | int | str


def set_fixed_gates(model: nn.Module, gates: GateSpec | None, adapter_name: str = "default") -> None:
    """Fix the gates of an adapter; None gives routing back to the router.

    With fixed gates an adapter can be merged (`merge_adapter`, `merge_and_unload`). They are not saved with it:
    `export_lora` writes a plain LoRA that has them.

    Args:
        gates: used as they are, not normalised.

    Raises:
        ValueError: no such adapter, gates that do not fit, or an adapter that is merged with its present gates.
    """
    layers = hydralora_layers(model, adapter_name)
    if any(adapter_name in layer.merged_adapters for layer in layers.values()):
        raise ValueError(f"Adapter {adapter_name!r} is merged with its present gates: unmerge it before they change")
    if gates is not None:
        vectors = resolve_gates(model, gates, adapter_name)
    for name, layer in layers.items():
        if gates is not None:
            layer.fixed_gate_vectors[adapter_name] = vectors[name]
        elif adapter_name in layer.fixed_gate_vectors:
            del layer.fixed_gate_vectors[adapter_name]


@contextmanager
def fixed_gates(model: nn.Module, gates: GateSpec | None, adapter_name: str = "default") -> Iterator[None]:
    """`set_fixed_gates` while the context lasts; then the adapter is as it was before.

    Raises:
        ValueError: no such adapter, or gates that do not fit.
    """
    layers = hydralora_layers(model, adapter_name)
    before = {
        name: layer.fixed_gate_vectors[adapter_name]
        for name, layer in layers.items()
        if adapter_name in layer.fixed_gate_vectors
    }
    set_fixed_gates(model, gates, adapter_name)
    try:
        yield
    finally:
        set_fixed_gates(model, before or None, adapter_name)


def resolve_gates(model: nn.Module, gates: GateSpec | None, adapter_name: str = "default") -> dict[str, Tensor]:
    """Gates [N] of every layer, float32, on the layer's device.

    Args:
        gates: None stands for gates that are fixed already: static or uniform ones, or those of a single expert.

    Raises:
        ValueError: gates that do not fit, or None while gates depend on the input.
    """
    layers = hydralora_layers(model, adapter_name)
    if isinstance(gates, Mapping) and set(gates) != set(layers):
        raise ValueError(
            f"Expected gates for the {len(layers)} adapted layers, e.g. {next(iter(layers))!r}; without gates: "
            f"{sorted(set(layers) - set(gates))[:3]}, not adapted: {sorted(set(gates) - set(layers))[:3]}"
        )
    return {
        name: _layer_gates(layer, gates[name] if isinstance(gates, Mapping) else gates, adapter_name)
        for name, layer in layers.items()
    }


def _layer_gates(layer: HydraLoraLayer, gates: Tensor | int | str | None, adapter_name: str) -> Tensor:
    num_experts = layer.num_experts[adapter_name]
    device = layer.hydralora_B[adapter_name].weight.device
    if gates is None:
        fixed = layer.fixed_gates(adapter_name)
        if fixed is None:
            raise ValueError(
                f"Adapter {adapter_name!r} weighs its {num_experts} experts by the input. Give gates: measured ones "
                f'(`calibrate_gates`), a vector of {num_experts}, the number of one expert, or "uniform".'
            )
        return fixed
    if gates == "uniform":
        return torch.full((num_experts,), 1 / num_experts, device=device)
    if isinstance(gates, int) and 0 <= gates < num_experts:
        return nn.functional.one_hot(torch.tensor(gates, device=device), num_experts).float()
    if isinstance(gates, Tensor) and gates.shape == (num_experts,) and bool(torch.isfinite(gates).all()):
        return gates.to(device, torch.float32)
    got = list(gates.shape) if isinstance(gates, Tensor) else repr(gates)
    raise ValueError(
        f"Expected gates as a finite tensor of shape [{num_experts}], an expert from 0 to {num_experts - 1}, or "
        f'"uniform", got {got}'
    )
