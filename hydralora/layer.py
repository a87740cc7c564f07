"""A linear layer with HydraLoRA adapters: one A, N experts B_i side by side in one matrix, and a router."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hydralora.config import HydraLoraConfig
from hydralora.ops import can_fuse, hydra_linear
from hydralora.ops.eager import gate_low_rank, softmax_gates, with_shared_expert

GateObserver = Callable[[str, Tensor], None]


class HydraLoraLayer(BaseTunerLayer):
    """Parameters and gates of the adapters on one layer; everything is keyed by adapter name.

    Shapes: E = N + 1 with a shared expert, else N.

        hydralora_A       [r, in], or [E * r, in] with an A_i for each expert
        hydralora_B       [out, E * r], column block i is B_i, the shared expert last
        hydralora_router  [N, r] ([N, E * r] with an A_i for each expert), or [N, in] for router_input="hidden"

    Attributes:
        static_gates: gates [N] that replace the router's.
        sequence_gates: gates [batch, N] for router_input="sequence", present while `hydralora.expert_gates` is active.
        gate_observer: called with the adapter's name and gates [..., N] in each forward pass of several experts.
    """

    # PEFT saves, moves, casts, freezes and deletes what stands in these two tuples.
    adapter_layer_names = ("hydralora_A", "hydralora_B", "hydralora_router")
    other_param_names = (
        "r",
        "scaling",
        "num_experts",
        "router_input",
        "shared_expert",
        "hydralora_dropout",
        "static_gates",
    )

    def __init__(self, base_layer: nn.Module) -> None:
        self.base_layer = base_layer
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.num_experts: dict[str, int] = {}
        self.router_input: dict[str, str] = {}
        self.shared_expert: dict[str, bool] = {}
        self.hydralora_dropout = nn.ModuleDict()
        # Of nn.Linear without bias; nn.ModuleDict's type says nn.Module.
        self.hydralora_A: Any = nn.ModuleDict()
        self.hydralora_B: Any = nn.ModuleDict()
        self.hydralora_router: Any = nn.ModuleDict()
        self.static_gates = BufferDict(persistent=False)
        self.sequence_gates: Tensor | None = None
        self.recompute_gates: Tensor | None = None
        self.gate_observer: GateObserver | None = None
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.in_features, self.out_features = _get_in_out_features(self.get_base_layer())

    def update_layer(self, adapter_name: str, r: int, lora_alpha: float, config: HydraLoraConfig) -> None:
        """Add an adapter, or replace the one of this name.

        Raises:
            ValueError: a rank below 1.
        """
        if r < 1:
            raise ValueError(f"Expected a rank `r` of at least 1, got {r}. Check `r` and `rank_pattern`.")
        experts = config.num_experts
        blocks = experts + config.shared_expert
        a_rows = r if config.shared_a else blocks * r
        self.r[adapter_name] = r
        self.scaling[adapter_name] = lora_alpha / (math.sqrt(r) if config.use_rslora else r)
        self.num_experts[adapter_name] = experts
        self.router_input[adapter_name] = config.router_input
        self.shared_expert[adapter_name] = config.shared_expert
        self.hydralora_dropout[adapter_name] = nn.Dropout(config.lora_dropout) if config.lora_dropout else nn.Identity()
        self.hydralora_A[adapter_name] = nn.Linear(self.in_features, a_rows, bias=False)
        self.hydralora_B[adapter_name] = nn.Linear(blocks * r, self.out_features, bias=False)
        # One logit always has softmax 1: a router for a single expert would be a parameter without effect.
        if experts > 1 and config.router_input in ("low_rank", "hidden"):
            router_inputs = a_rows if config.router_input == "low_rank" else self.in_features
            self.hydralora_router[adapter_name] = nn.Linear(router_inputs, experts, bias=False)
        self.reset_parameters(adapter_name, config.init_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def reset_parameters(self, adapter_name: str, init_weights: bool = True) -> None:
        """A and router Kaiming-uniform with a = sqrt(5), B zero (or as A, if not `init_weights`).

        The router is never zero: with B = 0 and equal gates, all experts get the same gradient and stay copies of each
        other. This scale (1 / sqrt(fan_in)) starts its gates apart but near 1 / N.
        """
        nn.init.kaiming_uniform_(self.hydralora_A[adapter_name].weight, a=math.sqrt(5))
        if adapter_name in self.hydralora_router:
            nn.init.kaiming_uniform_(self.hydralora_router[adapter_name].weight, a=math.sqrt(5))
        if init_weights:
            nn.init.zeros_(self.hydralora_B[adapter_name].weight)
        else:
            nn.init.kaiming_uniform_(self.hydralora_B[adapter_name].weight, a=math.sqrt(5))

    def gates(self, x: Tensor, adapter_name: str = "default") -> Tensor:
        """Gates of an adapter's experts for an input of this layer.

        Args:
            x: [..., in].

        Returns:
            [..., N], float32 for a router in float32 or less; the shared expert is not among them.
        """
        x = self._cast_input_dtype(x, self.hydralora_A[adapter_name].weight.dtype)
        h = self.hydralora_A[adapter_name](self.hydralora_dropout[adapter_name](x))
        return self._gates(x, h, adapter_name).expand(*x.shape[:-1], -1)

    def fixed_gates(self, adapter_name: str) -> Tensor | None:
        """Gates [N] that hold for every input (one expert, static, uniform); None while they depend on the input."""
        if adapter_name in self.static_gates:
            gates: Tensor = self.static_gates[adapter_name]
            return gates
        experts = self.num_experts[adapter_name]
        if experts == 1 or self.router_input[adapter_name] == "uniform":
            weight = self.hydralora_B[adapter_name].weight
            dtype = torch.promote_types(weight.dtype, torch.float32)
            return torch.full((experts,), 1 / experts, device=weight.device, dtype=dtype)
        return None

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether `peft.convert_to_lora` can take this layer: gates are fixed."""
        return adapter_name not in self.hydralora_A or self.fixed_gates(adapter_name) is not None

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """scaling * sum_i g_i B_i A, in the layout of the base layer's weight, in float32 or wider.

        Raises:
            ValueError: gates depend on the input, so there is no such matrix.
        """
        gates = self.fixed_gates(adapter_name)
        if gates is None:
            raise ValueError(merge_refusal(adapter_name, self.num_experts[adapter_name]))
        weight_a, weight_b = self.hydralora_A[adapter_name].weight, self.hydralora_B[adapter_name].weight
        dtype = torch.promote_types(weight_b.dtype, torch.float32)
        experts = weight_b.detach().to(dtype).unflatten(1, (-1, self.r[adapter_name]))  # [out, E, r]
        if self.shared_expert[adapter_name]:
            gates = with_shared_expert(gates)
        gated = experts * gates.to(experts)[:, None]
        rows_of_one_a = len(weight_a) == self.r[adapter_name]
        delta: Tensor = (gated.sum(1) if rows_of_one_a else gated.flatten(1)) @ weight_a.detach().to(dtype)
        delta = delta * self.scaling[adapter_name]
        return delta.T if self._weight_is_transposed else delta

    def _gates(self, x: Tensor, h: Tensor, adapter_name: str, rows: Sequence[int] | None = None) -> Tensor:
        """[..., N], or [N] where they are fixed. `rows`: which sequences of the batch x holds, if not all."""
        gates = self.fixed_gates(adapter_name)
        if gates is not None:
            pass
        elif self.router_input[adapter_name] == "sequence":
            gates = self._spread_sequence_gates(h, adapter_name, rows)
        else:
            z = h if self.router_input[adapter_name] == "low_rank" else x
            gates = softmax_gates(self.hydralora_router[adapter_name](z))
        if self.gate_observer is not None and self.num_experts[adapter_name] > 1:
            self.gate_observer(adapter_name, gates.expand(*h.shape[:-1], -1))
        return gates

    def _spread_sequence_gates(self, h: Tensor, adapter_name: str, rows: Sequence[int] | None) -> Tensor:
        """Gates given for each sequence, for each row of h: [B, N] -> [B', ..., N].

        B' is a multiple of B where generation repeats sequences (beams) or a model flattens [batch, length]; both keep
        what belongs to a sequence together.
        """
        gates = self.sequence_gates
        if gates is None and torch._C._current_graph_task_id() != -1:
            gates = self.recompute_gates  # gradient checkpointing runs the forward pass again within backward
        experts = self.num_experts[adapter_name]
        if gates is None:
            raise ValueError(
                f"Adapter {adapter_name!r} has router_input='sequence' and needs gates: call the model with "
                f"expert_gates=[batch, {experts}], or within `with hydralora.expert_gates(model, gates):`"
            )
        if rows is not None:
            gates = gates[list(rows)]
        if gates.dim() != 2 or gates.shape[1] != experts or h.shape[0] % gates.shape[0]:
            raise ValueError(
                f"Expected expert_gates [batch, {experts}] for an input of shape {tuple(h.shape[:-1])}, "
                f"got {tuple(gates.shape)}"
            )
        gates = gates.to(h.device).repeat_interleave(h.shape[0] // gates.shape[0], dim=0)
        return gates.view(gates.shape[0], *(1,) * (h.dim() - 2), experts)

    @property
    def _weight_is_transposed(self) -> bool:
        return False


class HydraLoraLinear(nn.Module, HydraLoraLayer):
    """y = W0 x + b + scaling * sum_i g_i B_i A x (arXiv 2404.19245, section 3.2) over any linear base layer.

    ("Linear" is in the name because PEFT's "all-linear" looks for it.)
    """

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
        self.fan_in_fan_out = config.fan_in_fan_out
        # Brings bitsandbytes, GPTQ and others: how to read the base weight, and to write a merged one.
        self.quantization_backend = resolve_quantization_backend(self.get_base_layer(), **kwargs)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha, config)

    def forward(self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Tensor:
        """x [..., in] -> [..., out] in the base layer's dtype. `adapter_names`: an adapter for each row of x."""
        if adapter_names is not None:
            self._check_adapter_names(x, adapter_names)
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return self._base(x, *args, **kwargs)
        if adapter_names is not None:
            return self._forward_mixed_batch(x, adapter_names, *args, **kwargs)
        adapters = [name for name in self.active_adapters if name in self.hydralora_A]
        if not args and not kwargs and self._can_fuse(x, adapters):
            return self._forward_fused(x, adapters[0])
        result = self._base(x, *args, **kwargs)
        if adapters and self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        dtype = result.dtype
        for name in adapters:
            result = result + self._update(x, name)
        return result.to(dtype)

    def _base(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = self.base_layer(x, *args, **kwargs)
        return result

    def _update(self, x: Tensor, adapter_name: str, rows: Sequence[int] | None = None) -> Tensor:
        """What an adapter adds, [..., out]. Calls its modules, not their weights, so that hooks and FSDP work."""
        a = self.hydralora_A[adapter_name]
        x = self._cast_input_dtype(x, a.weight.dtype)
        h = a(self.hydralora_dropout[adapter_name](x))
        gates: Tensor | None = None
        if self.num_experts[adapter_name] > 1:
            gates = self._gates(x, h, adapter_name, rows)
            if self.shared_expert[adapter_name]:
                gates = with_shared_expert(gates)
        elif self.shared_expert[adapter_name]:
            gates = h.new_ones(2)
        # Scaling r columns is cheaper than all `out` columns, as PEFT's LoRA does.
        scaled = h * self.scaling[adapter_name]
        update: Tensor = self.hydralora_B[adapter_name](gate_low_rank(scaled, gates, self.r[adapter_name]))
        return update

    def _can_fuse(self, x: Tensor, adapters: list[str]) -> bool:
        """Whether `_forward_fused` computes the same: one adapter, one A, gates from its router, no dropout."""
        if len(adapters) != 1 or self.gate_observer is not None:
            return False
        name = adapters[0]
        modules = [
            group[name] for group in (self.hydralora_A, self.hydralora_B, self.hydralora_router) if name in group
        ]
        if any(type(module) is not nn.Linear for module in modules):  # wrapped, for instance by FSDP
            return False
        routed = self.num_experts[name] == 1 or (name in self.hydralora_router and name not in self.static_gates)
        no_dropout = not self.training or isinstance(self.hydralora_dropout[name], nn.Identity)
        shared_a = modules[0].out_features == self.r[name]
        return routed and no_dropout and shared_a and can_fuse(x, self.base_layer, *modules)

    def _forward_fused(self, x: Tensor, name: str) -> Tensor:
        return hydra_linear(
            x,
            self.base_layer.weight,
            self.base_layer.bias,
            self.hydralora_A[name].weight,
            self.hydralora_B[name].weight,
            self.hydralora_router[name].weight if name in self.hydralora_router else None,
            self.scaling[name],
            self.router_input[name],
        )

    def _check_adapter_names(self, x: Tensor, adapter_names: Sequence[str]) -> None:
        if len(x) != len(adapter_names):
            raise ValueError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively."
            )
        if self.merged:
            raise ValueError(
                "Cannot pass `adapter_names` when there are merged adapters, call `unmerge_adapter` first."
            )

    def _forward_mixed_batch(self, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        """Rows of one batch with different adapters; "__base__" and adapters that this layer lacks add nothing."""
        result = self._base(x, *args, **kwargs).clone()
        for name in sorted(set(adapter_names) & set(self.hydralora_A)):
            rows = [row for row, row_name in enumerate(adapter_names) if row_name == name]
            result[rows] += self._update(x[rows], name, rows).to(result.dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters with fixed gates to the base weight, in float32 or wider, then rounded once.

        Args:
            safe_merge: raise rather than write values that are not finite.
            adapter_names: default the active ones.

        Raises:
            ValueError: gates depend on the input, or the result is not finite.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.hydralora_A]
        deltas = {name: self.get_delta_weight(name) for name in names}  # all refusals come before any change
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
            self.set_base_weight(self._shifted_base_weight(-self.get_delta_weight(self.merged_adapters.pop())))

    def _shifted_base_weight(self, delta: Tensor) -> Tensor:
        weight: Tensor = self.get_base_weight()
        return (weight.to(torch.promote_types(weight.dtype, delta.dtype)) + delta.to(weight.device)).to(weight.dtype)

    @property
    def _weight_is_transposed(self) -> bool:
        base = self.get_base_layer()
        return isinstance(base, Conv1D) or (self.fan_in_fan_out and not isinstance(base, nn.Linear))


def merge_refusal(adapter_name: str, num_experts: int) -> str:
    return (
        f"Adapter {adapter_name!r} cannot be merged: its {num_experts} experts are weighed by gates that depend on the "
        f"input, so no single weight equals it. Fix the gates and export a plain LoRA with `hydralora.export_lora` (or "
        f"`hydralora.to_merged` for a merged model), or fix them in place with `hydralora.set_static_gates` and merge."
    )
