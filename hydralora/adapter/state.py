"""The state of an adapter, which each public function checks before it changes anything.

Each public function is right only in some states: a merged adapter is already in the base weights, a disabled one does
not run, a compiled module hides names. docs/method.md has the table of states and functions.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from hydralora.adapter.layer import HydraLoraLayer

_COMPILED = "_orig_mod"  # the submodule name under which `torch.compile` keeps the original module


def unwrapped(model: nn.Module) -> Any:
    """The model inside `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while True:
        if _COMPILED in model._modules:
            model = model._modules[_COMPILED]  # type: ignore[assignment]
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def plain_name(name: str) -> str:
    """Name of a module or parameter without the parts that `torch.compile` inserts."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def base_of(model: nn.Module) -> nn.Module:
    """The base model that holds the adapter's layers, without wrappers."""
    inner = unwrapped(model)
    return unwrapped(inner.get_base_model() if isinstance(inner, PeftModel) else inner)


def device_of(model: nn.Module) -> torch.device:
    """Device for a model's inputs: of its first weight in memory, else the CPU (accelerate offloads between calls)."""
    return next((weight.device for weight in model.parameters() if not weight.is_meta), torch.device("cpu"))


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while the context lasts. Then each module has its own mode again: some may be frozen in eval."""
    was_training, before = model.training, [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        for module, mode in before:
            module.training = mode


def configs_of(model: nn.Module) -> dict[str, Any]:
    """Configs by adapter name; empty for a model without adapters."""
    return getattr(unwrapped(model), "peft_config", None) or {}


def hydralora_layers(model: nn.Module, adapter_name: str = "default") -> dict[str, HydraLoraLayer]:
    """Layers with an adapter, by their name in the base model (without the parts that `torch.compile` inserts).

    Raises:
        ValueError: If no layer has this adapter.
    """
    layers = {
        plain_name(name): module
        for name, module in base_of(model).named_modules()
        if isinstance(module, HydraLoraLayer) and adapter_name in module.hydralora_A
    }
    if not layers:
        known = sorted(configs_of(model))
        raise ValueError(
            f"Expected a model with a HydraLoRA adapter {adapter_name!r}, got one with the adapters {known}"
        )
    return layers


@dataclasses.dataclass(frozen=True)
class AdapterState:
    """State of one adapter in a model.

    Attributes:
        merged: Names of adapters that are merged into base weights in any layer.
        has_peft_model: False if the layers were injected without a `PeftModel`, as transformers does.
    """

    name: str
    merged: tuple[str, ...]
    active: bool
    disabled: bool
    compiled: tuple[str, ...]
    has_peft_model: bool
    others: tuple[str, ...]

    def refuse_merged(self, doing: str, any_adapter: bool) -> None:
        """Raise ValueError if the adapter is merged or, with `any_adapter`, if any adapter is merged."""
        if (any_adapter and self.merged) or self.name in self.merged:
            names = ", ".join(repr(name) for name in self.merged)
            raise ValueError(
                f"Cannot {doing} while {names} is merged into the base weights (adapter {self.name!r} was named). "
                f"Call `unmerge_adapter()` first."
            )

    def refuse_without_peft_model(self, doing: str) -> None:
        """Raise ValueError where layers were injected into a model that is not a `PeftModel`."""
        if not self.has_peft_model:
            raise ValueError(
                f"Cannot {doing}: expected a `PeftModel`, got a model with injected layers. Save the adapter, and load "
                f"it with `PeftModel.from_pretrained`."
            )

    def refuse_compiled_layers(self, doing: str) -> None:
        """Raise ValueError where single adapter layers are compiled."""
        if self.compiled:
            raise ValueError(
                f"Cannot {doing}: the adapter layers {', '.join(self.compiled[:3])} are compiled one by one and would "
                f"keep running their old code. Compile the model, or its blocks, instead."
            )

    def refuse_disabled(self, doing: str) -> None:
        """Raise ValueError where adapters are disabled."""
        if self.disabled:
            raise ValueError(
                f"Cannot {doing} while adapters are disabled: no forward pass runs {self.name!r}. Enable them first."
            )

    def refuse_idle(self, doing: str) -> None:
        """Raise ValueError unless the forward pass runs this adapter."""
        self.refuse_merged(doing, any_adapter=True)
        self.refuse_disabled(doing)
        if not self.active:
            raise ValueError(
                f"Cannot {doing}: adapter {self.name!r} is not active, so no forward pass runs it. Call "
                f"`model.set_adapter({self.name!r})` first."
            )


def adapter_state(model: nn.Module, adapter_name: str = "default") -> AdapterState:
    """State of an adapter of any PEFT method that adapts layers.

    Raises:
        ValueError: If no layer of the model has an adapter of this name.
    """
    modules = list(base_of(model).named_modules())
    layers = {name: module for name, module in modules if isinstance(module, BaseTunerLayer)}
    own = {name: layer for name, layer in layers.items() if _has_adapter(layer, adapter_name)}
    configs = configs_of(model)
    if not own:
        raise ValueError(f"Expected a model with an adapter {adapter_name!r}, got one with {sorted(configs)}")
    merged = {name for layer in layers.values() for name in getattr(layer, "merged_adapters", ())}
    return AdapterState(
        name=adapter_name,
        merged=tuple(sorted(merged)),
        active=all(adapter_name in layer.active_adapters for layer in own.values()),
        disabled=any(layer.disable_adapters for layer in own.values()),
        compiled=tuple(plain_name(name) for name in own if name.split(".")[-1] == _COMPILED),
        has_peft_model=isinstance(unwrapped(model), PeftModel),
        others=tuple(sorted(set(configs) - {adapter_name})),
    )


def refuse_adapters_below(model: nn.Module, doing: str) -> None:
    """Raise ValueError if the base model has adapters of its own, which `doing` would lose or leave out."""
    base = base_of(model)
    below = [name for name, module in base.named_modules() if isinstance(module, BaseTunerLayer) and _is_nested(module)]
    if below or isinstance(base, PeftModel):
        raise ValueError(
            f"Cannot {doing}: expected a base model without adapters, got {type(base).__name__} with adapters of its "
            f"own below these{f' ({plain_name(below[0])})' if below else ''}. Merge them into the base model first "
            f"(`merge_and_unload`), and add these adapters to the result."
        )


def _is_nested(layer: BaseTunerLayer) -> bool:
    return isinstance(layer.base_layer, BaseTunerLayer)


def names_outside_adapters(base: nn.Module) -> list[str]:
    """Names under which a model calls the base layer of an adapter layer without the adapter."""
    named = dict(base.named_modules(remove_duplicate=False))
    bases = {id(module.get_base_layer()) for module in named.values() if isinstance(module, HydraLoraLayer)}
    called = (name for name, module in named.items() if id(module) in bases)
    return [plain_name(name) for name in called if name.split(".")[-1] != "base_layer"]


def refuse_unmergeable_weights(base: nn.Module, adapter_names: Sequence[str] | None = None) -> None:
    """Raise ValueError if merging adapters (None: the active ones) would change a weight that another module uses, or
    one that is computed anew in each forward pass."""
    named = dict(base.named_modules(remove_duplicate=False))
    users: dict[int, dict[int, str]] = {}  # by weight; a base layer is listed as its adapter layer
    for name, module in named.items():
        plain = name.removesuffix(".base_layer")
        for parameter in module._parameters.values():
            users.setdefault(id(parameter), {})[id(named[plain])] = plain
    for name, layer in named.items():
        if not isinstance(layer, HydraLoraLayer):
            continue
        names = set(adapter_names or layer.active_adapters) & set(layer.hydralora_A) - set(layer.merged_adapters)
        base_layer = layer.get_base_layer()
        weight = base_layer._parameters.get("weight")
        reason = ""
        if weight is None and isinstance(base_layer, nn.Linear | Conv1D):
            reason = f"the weight of {name} is computed anew in each forward pass, and the update would be lost"
        elif weight is not None and len(users[id(weight)]) > 1:
            tied = " and ".join(users[id(weight)].values())
            reason = f"{tied} have one weight (tied), and merging would change it for both"
        elif layer.quantization_backend is None and not _uses_weight_as_it_is(base_layer):
            reason = f"{name} is a {type(base_layer).__name__}, which does not multiply by its weight as it is"
        if names and reason:
            raise ValueError(
                f"Cannot merge {', '.join(sorted(names))}: {reason}. Use the adapter unmerged, export a plain LoRA "
                f"(`hydralora.export_lora`), or leave the layer out (`exclude_modules`)."
            )


@torch.no_grad()
def _uses_weight_as_it_is(layer: nn.Module) -> bool:
    """False for a subclass of `nn.Linear` that does something else, such as scaling or rounding its weight."""
    if not isinstance(layer, nn.Linear) or type(layer).forward is nn.Linear.forward or layer.weight.is_meta:
        return True
    x = torch.linspace(-1, 1, layer.in_features, device=layer.weight.device, dtype=layer.weight.dtype)[None]
    return torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-2, atol=1e-3)


def _has_adapter(layer: BaseTunerLayer, adapter_name: str) -> bool:
    return any(adapter_name in getattr(layer, names, ()) for names in layer.adapter_layer_names)
