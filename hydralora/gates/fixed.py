"""Fixed gates: one vector [N] for each layer replaces the router."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral

import torch
from torch import Tensor, nn

from hydralora.adapter.layer import HydraLoraLayer
from hydralora.adapter.state import hydralora_layers

# Gates by layer name, one vector [N] for every layer, the index of one expert, or "uniform" for 1 / N.
GateSpec = Mapping[str, Tensor] | Tensor | int | str


def set_fixed_gates(model: nn.Module, gates: GateSpec | None, adapter_name: str = "default") -> None:
    """Fix the gates of an adapter, or with None let the router compute them again.

    An adapter with fixed gates can be merged (`merge_adapter`, `merge_and_unload`). Fixed gates are not saved with the
    adapter; `export_lora` writes a plain LoRA that includes them.

    Args:
        gates: Gates as in `to_lora`; they are not normalised.

    Raises:
        ValueError: If there is no such adapter, the gates do not fit, or the adapter is merged with its present gates.
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
    """`set_fixed_gates` while the context lasts; the earlier gates return afterwards.

    Raises:
        ValueError: As in `set_fixed_gates`.
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
        gates: Gates in one of the forms of `GateSpec`. None uses gates that are already fixed: those of
            `set_fixed_gates`, uniform gates, or those of a single expert.

    Raises:
        ValueError: If the gates do not fit, or are None while the adapter's gates depend on the input.
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
    weight = layer.hydralora_B[adapter_name].weight
    device = torch.device("cpu") if weight.is_meta else weight.device  # accelerate offloads weights between calls
    if gates is None:
        fixed = layer.fixed_gates(adapter_name)
        if fixed is None:
            raise ValueError(
                f"The gates of adapter {adapter_name!r} depend on the input. Pass fixed gates: measured ones "
                f'(`calibrate_gates`), a vector of {num_experts}, the index of one expert, or "uniform".'
            )
        return fixed
    if isinstance(gates, str) and gates == "uniform":
        return torch.full((num_experts,), 1 / num_experts, device=device)
    if isinstance(gates, Integral) and not isinstance(gates, bool) and 0 <= int(gates) < num_experts:
        return nn.functional.one_hot(torch.tensor(int(gates), device=device), num_experts).float()
    wrong = not isinstance(gates, Tensor) or gates.shape != (num_experts,) or gates.is_complex()
    if isinstance(gates, Tensor) and not wrong and bool(torch.isfinite(gates).all()):
        # A copy, so that an adapter keeps its gates (and can be unmerged) when the caller's vector changes.
        return gates.to(device, torch.float32, copy=True)
    got = list(gates.shape) if isinstance(gates, Tensor) else repr(gates)
    raise ValueError(
        f"Expected gates as a finite tensor of shape [{num_experts}], an expert from 0 to {num_experts - 1}, or "
        f'"uniform", got {got}'
    )
