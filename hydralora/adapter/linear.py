"""A linear layer with HydraLoRA adapters: forward, merge, unmerge."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hydralora.adapter.config import HydraLoraConfig
from hydralora.adapter.layer import HydraLoraLayer, Rows
from hydralora.ops import can_fuse, hydra_linear, is_hooked
from hydralora.ops.eager import expert_part, gate_and_scale, one_hot_gates, with_shared_expert


class HydraLoraLinear(nn.Module, HydraLoraLayer):
    """y = W0 x + b + scaling * sum_i g_i B_i A x (arXiv 2404.19245, section 3.2) over any linear base layer.

    A shared LoRA adds shared_scaling * B_s A_s x.

    The class name must contain "Linear", because PEFT's "all-linear" looks for it.
    """

    if TYPE_CHECKING:
        # nn.Module's own `__getattr__` returns Tensor | Module, also for attributes of PEFT's untyped BaseTunerLayer.
        def __getattr__(self, name: str) -> Any: ...

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        r: int,
        lora_alpha: float,
        config: HydraLoraConfig,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        HydraLoraLayer.__init__(self, base_layer)
        base = self.get_base_layer()
        self.weight_is_transposed = isinstance(base, Conv1D) or (
            config.fan_in_fan_out and not isinstance(base, nn.Linear)
        )
        # For bitsandbytes, GPTQ and others: reads the base weight and writes a merged one.
        self.quantization_backend = resolve_quantization_backend(base, **kwargs)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha, config)

    def __getstate__(self) -> dict[str, Any]:
        """Leave gates, and who records them, out of copies and files of the layer: they belong to this model."""
        without = dict.fromkeys(("given_gates", "recompute_gates", "last_call", "gate_observer"))
        return {**super().__getstate__(), **without}

    def forward(self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Tensor:
        """x [..., in] -> [..., out] in the base layer's dtype.

        Args:
            adapter_names: The adapter of each row of x; None uses the active adapters for all rows.
        """
        if adapter_names is not None:
            self._check_adapter_names(x, adapter_names)
        if self._disable_adapters or self.merged_adapters:
            if self._disable_adapters and self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._forward_mixed_batch(x, adapter_names, *args, **kwargs)
        known = self._modules["hydralora_A"]._modules  # type: ignore[union-attr]
        adapters = [name for name in self.active_adapters if name in known]
        if len(adapters) == 1 and not args and not kwargs:
            fused = self._fused(x, adapters[0])
            if fused is not None:
                return fused
        result = self.base_layer(x, *args, **kwargs)
        if adapters and self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        dtype = result.dtype
        for name in adapters:
            result = result + self._update(x, name)
        return result.to(dtype)

    def _update(self, x: Tensor, adapter_name: str, rows: Rows | None = None) -> Tensor:
        """The adapter's update [..., out]. It calls modules instead of using weights, so that hooks and FSDP work."""
        a = self.hydralora_A[adapter_name]
        x = self._cast_input_dtype(x, a.weight.dtype)
        low = a(self.hydralora_dropout[adapter_name](x))
        shared_rank = self.shared_rank[adapter_name]
        h = expert_part(low, shared_rank)
        gates: Tensor | None = None
        has_fixed = adapter_name in self.fixed_gate_vectors
        if self.num_experts[adapter_name] > 1 or has_fixed or self._are_given(adapter_name):
            gates = self._gates(x, h, adapter_name, rows)
            if self.shared_expert[adapter_name]:
                gates = with_shared_expert(gates)
        elif self.shared_expert[adapter_name]:
            gates = h.new_ones(2)
        scalings = self.scaling[adapter_name], shared_rank, self.shared_scaling[adapter_name]
        return self.hydralora_B[adapter_name](gate_and_scale(low, gates, self.r[adapter_name], *scalings))

    def _fused(self, x: Tensor, name: str) -> Tensor | None:
        """The layer as one fused function; None if that would differ (dropout, hooks, an A_i for each expert ...).

        The code uses few attribute look-ups: it runs before each launch, and launches dominate the time of small
        batches. nn.Module finds submodules through a slow `__getattr__`, so their dictionary is read once instead.
        """
        children: Any = self._modules
        shared_rank = self.shared_rank[name]
        a = children["hydralora_A"]._modules[name]
        if self.gate_observer is not None or a.out_features != self.r[name] + shared_rank:
            return None
        dropout = children["hydralora_dropout"]._modules[name]
        if (self.training and type(dropout) is not nn.Identity) or is_hooked(dropout):
            return None
        b, router = children["hydralora_B"]._modules[name], children["hydralora_router"]._modules.get(name)
        base = children["base_layer"]
        if not (can_fuse(x, base, a, b) if router is None else can_fuse(x, base, a, b, router)):
            return None
        router_input, gating = self.router_input[name], None if router is None else router.weight
        needs_gates = router is None and (self.num_experts[name] > 1 or self._are_given(name))
        if needs_gates or name in children["fixed_gate_vectors"]._buffers:
            router_input, gating = "given", self._constant_gates(x, name)
            if gating.requires_grad:
                return None
        return hydra_linear(
            x,
            base._parameters["weight"],
            base._parameters["bias"],
            a._parameters["weight"],
            b._parameters["weight"],
            gating,
            self.scaling[name],
            router_input,
            shared_rank,
            self.shared_scaling[name],
        )

    def _constant_gates(self, x: Tensor, name: str) -> Tensor:
        """Fixed or given gates [G, N] in float32 or wider, or expert indices [G]; each row is for the next T / G of x's
        T tokens."""
        fixed = None if self._are_given(name) else self.fixed_gates(name)
        gates = self._gates_in_order(x.shape, x.device, name) if fixed is None else fixed[None]
        if not gates.is_floating_point():
            return one_hot_gates(gates, self.num_experts[name]) if self.shared_expert[name] else gates
        if gates.dtype == torch.float32 and x.dtype != torch.float64:
            return gates
        return gates.to(torch.promote_types(x.dtype, torch.float32))

    def _check_adapter_names(self, x: Tensor, adapter_names: Sequence[str]) -> None:
        if len(x) != len(adapter_names):
            raise ValueError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively."
            )
        if self.merged:
            raise ValueError(
                "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
            )

    def _forward_mixed_batch(self, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        """Run one batch whose rows have different adapters. "__base__" and adapters not on this layer add nothing."""
        result = self.base_layer(x, *args, **kwargs).clone()
        for name in sorted(set(adapter_names) & set(self.hydralora_A)):
            rows = [row for row, row_name in enumerate(adapter_names) if row_name == name]
            result[rows] += self._update(x[rows], name, Rows(rows, x.shape)).to(result.dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters with fixed gates to the base weight. Adds in float32 or wider and rounds once.

        Args:
            safe_merge: Whether to raise an error instead of writing values that are not finite.
            adapter_names: Adapters to merge; None merges the active ones.

        Raises:
            ValueError: If gates depend on the input, or the result is not finite (with `safe_merge`).
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.hydralora_A]
        deltas = {name: self.exact_delta_weight(name) for name in names}  # raises before any weight changes
        for name, delta in deltas.items():
            merged = self._shifted_base_weight(delta)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
            self.set_base_weight(merged)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Subtract merged adapters from the base weight."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            self.set_base_weight(self._shifted_base_weight(-self.exact_delta_weight(self.merged_adapters.pop())))

    def _shifted_base_weight(self, delta: Tensor) -> Tensor:
        weight: Tensor = self.get_base_weight()
        return (weight.to(torch.promote_types(weight.dtype, delta.dtype)) + delta.to(weight.device)).to(weight.dtype)
