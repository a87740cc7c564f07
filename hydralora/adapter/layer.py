"""Parameters and gates of HydraLoRA adapters: one A, N experts B_i side by side in one matrix, and a router."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import Tensor, nn

from hydralora.adapter.batch_axis import Call, Place
from hydralora.adapter.config import HydraLoraConfig
from hydralora.adapter.given_gates import ModelCalls, token_gates
from hydralora.ops.eager import softmax_gates, with_shared_expert

GateObserver = Callable[[str, Tensor], None]


class Rows(NamedTuple):
    """Some rows of a layer's input, and the shape of the whole input [batch, ..., d]."""

    indices: Sequence[int]
    shape: torch.Size


class HydraLoraLayer(BaseTunerLayer):
    """Parameters and gates of the adapters on one layer; everything is keyed by adapter name.

    Shapes: E = N + 1 with a shared expert, else N.

        hydralora_A       [r, in], or [E * r, in] with an A_i for each expert
        hydralora_B       [out, E * r], column block i is B_i, the shared expert last
        hydralora_router  [N, r] ([N, E * r] with an A_i for each expert), or [N, in] for router_input="hidden"

    Attributes:
        static_gates: gates [N] that replace the router's.
        sequence_gates: gates [batch, N] or [batch, length, N] for router_input="sequence", present while
            `hydralora.expert_gates` is active.
        recompute_gates: the last of them, for layers that gradient checkpointing runs again within backward.
        calls: calls of the model that are running now, which say how many rows the batch has.
        last_call: the last one that this layer took part in, for gradient checkpointing too.
        place: where the layer stands in the model.
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
        self.cast_input_dtype_enabled = True  # switched by peft.helpers.disable_input_dtype_casting
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
        self.calls = ModelCalls()
        self.last_call: Call | None = None
        self.place = Place()
        self.gate_observer: GateObserver | None = None
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.weight_is_transposed = False
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
        """`exact_delta_weight` in the adapter's dtype, as PEFT's LoRA gives it and `peft.convert_to_lora` wants it."""
        return self.exact_delta_weight(adapter_name).to(self.hydralora_B[adapter_name].weight.dtype)

    def exact_delta_weight(self, adapter_name: str) -> Tensor:
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
        return delta.T if self.weight_is_transposed else delta

    def _gates(self, x: Tensor, h: Tensor, adapter_name: str, rows: Rows | None = None) -> Tensor:
        """[..., N], or [N] where they are fixed. `rows`: which rows of the layer's input x holds, if not all."""
        gates = self.fixed_gates(adapter_name)
        if gates is not None:
            pass
        elif self.router_input[adapter_name] == "sequence":
            gates = self._given_gates(h.shape if rows is None else rows.shape, adapter_name, rows)
        else:
            z = h if self.router_input[adapter_name] == "low_rank" else x
            gates = softmax_gates(self.hydralora_router[adapter_name](z))
        if self.gate_observer is not None and self.num_experts[adapter_name] > 1:
            self.gate_observer(adapter_name, gates.expand(*h.shape[:-1], -1))
        return gates

    def _given_gates(self, shape: torch.Size, adapter_name: str, rows: Rows | None = None) -> Tensor:
        """Gates [..., N] for an input of this shape, [..., d], or for some rows of it."""
        gates = self._gates_in_order(shape, adapter_name)
        tokens = math.prod(shape[:-1])
        gates = gates.repeat_interleave(tokens // len(gates), dim=0).view(*shape[:-1], -1)
        return gates if rows is None else gates[list(rows.indices)]

    def _gates_in_order(self, shape: torch.Size, adapter_name: str) -> Tensor:
        """Gates [G, N] that the tokens of an input of this shape take in order, T / G tokens each."""
        gates, call = self.sequence_gates, self.calls.running[-1] if self.calls.running else None
        if gates is None and torch._C._current_graph_task_id() != -1:
            # Gradient checkpointing runs the forward pass again within backward.
            gates, call = self.recompute_gates, call or self.last_call
        experts = self.num_experts[adapter_name]
        if gates is None:
            raise ValueError(
                f"Adapter {adapter_name!r} has router_input='sequence' and needs gates: call the model with "
                f"expert_gates=[batch, {experts}], or within `with hydralora.expert_gates(model, gates):` "
                f"(the only way for a PeftModel without a task_type)"
            )
        place = self.place
        if call is None:  # the layer is called by itself: what it sees is the batch
            call, place = Call(shape[0], batch_first=True), Place()
        if gates.dim() not in (2, 3) or gates.shape[-1] != experts:
            raise ValueError(
                f"Expected expert_gates [batch, {experts}] for an input of shape {tuple(shape[:-1])}, "
                f"got {tuple(gates.shape)}"
            )
        self.last_call = call
        gates = token_gates(gates, tuple(shape[:-1]), call, place, self.calls.copies)
        return gates.to(self.hydralora_B[adapter_name].weight.device)


def merge_refusal(adapter_name: str, num_experts: int) -> str:
    return (
        f"Adapter {adapter_name!r} cannot be merged: its {num_experts} experts are weighed by gates that depend on the "
        f"input, so no single weight equals it. Fix the gates and export a plain LoRA with `hydralora.export_lora` (or "
        f"`hydralora.to_merged` for a merged model), or fix them in place with `hydralora.set_static_gates` and merge."
    )
