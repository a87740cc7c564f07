"""Parameters and gates of HydraLoRA adapters: one A, N experts B_i side by side in one matrix, and a router.

A shared LoRA (`shared_rank`) is stored in the same two matrices: its A below A, its B beside the B_i. So one matrix
product reads the layer's input for both parts, and one product writes the output.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import Tensor, nn

from hydralora.adapter.batch_axis import Call, Place
from hydralora.adapter.calls import ModelCalls
from hydralora.adapter.config import HydraLoraConfig
from hydralora.adapter.given_gates import token_gates
from hydralora.ops.eager import expert_part, one_hot_gates, softmax_gates, with_shared_expert

GateObserver = Callable[[str, Tensor], None]


class Rows(NamedTuple):
    """Some rows of a layer's input, and the shape of the whole input [batch, ..., d]."""

    indices: Sequence[int]
    shape: torch.Size


class HydraLoraLayer(BaseTunerLayer):
    """Parameters and gates of the adapters on one layer; everything is keyed by adapter name.

    Shapes: E = N + 1 with a shared expert, else N; s = `shared_rank`, usually 0.

        hydralora_A       [r + s, in], or [E * r + s, in] with an A_i for each expert; the shared LoRA's s rows last
        hydralora_B       [out, E * r + s], column block i is B_i, then a shared expert, or the shared LoRA's s columns
        hydralora_router  [N, r] ([N, E * r] with an A_i for each expert), or [N, in] for router_input="hidden"

    Attributes:
        fixed_gate_vectors: Fixed gates [N] by adapter name; they replace the router's.
        given_gates: Gates [batch, N] or [batch, length, N] for router_input="given", or expert indices [batch] or
            [batch, length]. Set while `hydralora.expert_gates` is active, else None.
        recompute_gates: The last given gates, for layers that gradient checkpointing runs again during backward.
        calls: The running calls of the model. They tell how many rows the batch has.
        last_call: The last call in which this layer ran, for gradient checkpointing too.
        place: Where the layer stands in the model.
        gate_observer: Called in each forward pass of an adapter with several experts, with the adapter's name and the
            gates [..., N].
    """

    # PEFT saves, moves, casts, freezes and deletes the attributes named in these two tuples.
    adapter_layer_names = ("hydralora_A", "hydralora_B", "hydralora_router")
    other_param_names = (
        "r",
        "scaling",
        "num_experts",
        "router_input",
        "shared_expert",
        "shared_rank",
        "shared_scaling",
        "hydralora_dropout",
        "fixed_gate_vectors",
    )

    def __init__(self, base_layer: nn.Module) -> None:
        self.base_layer = base_layer
        self.cast_input_dtype_enabled = True  # switched by peft.helpers.disable_input_dtype_casting
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.num_experts: dict[str, int] = {}
        self.router_input: dict[str, str] = {}
        self.shared_expert: dict[str, bool] = {}
        self.shared_rank: dict[str, int] = {}
        self.shared_scaling: dict[str, float] = {}
        self.hydralora_dropout = nn.ModuleDict()
        # They hold nn.Linear without bias. `Any`, because nn.ModuleDict is typed as holding nn.Module.
        self.hydralora_A: Any = nn.ModuleDict()
        self.hydralora_B: Any = nn.ModuleDict()
        self.hydralora_router: Any = nn.ModuleDict()
        self.fixed_gate_vectors = BufferDict(persistent=False)
        self.given_gates: Tensor | None = None
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
            ValueError: If `r` is below 1, or `lora_alpha` is 0 beside a shared LoRA.
        """
        if r < 1:
            raise ValueError(f"Expected a rank `r` of at least 1, got {r}. Check `r` and `rank_pattern`.")
        if config.shared_rank and not lora_alpha:
            raise ValueError(
                "Expected `lora_alpha` and `alpha_pattern` other than 0 beside a shared LoRA (`shared_rank`), got 0. "
                "If you want only the shared LoRA, use PEFT's LoRA."
            )
        experts = config.num_experts
        blocks = experts + config.shared_expert
        expert_rows, shared_rank = r if config.shared_a else blocks * r, config.shared_rank
        self.r[adapter_name] = r
        self.scaling[adapter_name] = lora_alpha / (math.sqrt(r) if config.use_rslora else r)
        self.shared_rank[adapter_name] = shared_rank
        self.shared_scaling[adapter_name] = self.scaling[adapter_name]
        if config.shared_alpha is not None:
            self.shared_scaling[adapter_name] = config.shared_alpha / (
                math.sqrt(shared_rank) if config.use_rslora else shared_rank
            )
        self.num_experts[adapter_name] = experts
        self.router_input[adapter_name] = config.router_input
        self.shared_expert[adapter_name] = config.shared_expert
        dropout = nn.Dropout(config.lora_dropout) if config.lora_dropout else nn.Identity()
        self.hydralora_dropout[adapter_name] = dropout.train(getattr(self, "training", True))
        self.hydralora_A[adapter_name] = nn.Linear(self.in_features, expert_rows + shared_rank, bias=False)
        self.hydralora_B[adapter_name] = nn.Linear(blocks * r + shared_rank, self.out_features, bias=False)
        # The softmax of one logit is always 1, so a router for a single expert would have no effect.
        if experts > 1 and config.router_input in ("low_rank", "hidden"):
            router_inputs = expert_rows if config.router_input == "low_rank" else self.in_features
            self.hydralora_router[adapter_name] = nn.Linear(router_inputs, experts, bias=False)
        self.reset_parameters(adapter_name, config.init_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def reset_parameters(self, adapter_name: str, init_weights: bool = True) -> None:
        """Initialise A and the router Kaiming-uniform with a = sqrt(5), B with zeros (like A without `init_weights`).

        The router is never zero: with B = 0 and equal gates, all experts would get the same gradient and stay copies of
        each other. With this scale (1 / sqrt(fan_in)) the gates start different, but near 1 / N.
        """
        nn.init.kaiming_uniform_(self.hydralora_A[adapter_name].weight, a=math.sqrt(5))
        if adapter_name in self.hydralora_router:
            nn.init.kaiming_uniform_(self.hydralora_router[adapter_name].weight, a=math.sqrt(5))
        if init_weights:
            nn.init.zeros_(self.hydralora_B[adapter_name].weight)
        else:
            nn.init.kaiming_uniform_(self.hydralora_B[adapter_name].weight, a=math.sqrt(5))

    def gates(self, x: Tensor, adapter_name: str = "default") -> Tensor:
        """Gates [..., N] of an adapter's experts, without the shared expert's, for an input [..., in] of this layer."""
        x = self._cast_input_dtype(x, self.hydralora_A[adapter_name].weight.dtype)
        low = self.hydralora_A[adapter_name](self.hydralora_dropout[adapter_name](x))
        h = expert_part(low, self.shared_rank[adapter_name])
        return self._gates(x, h, adapter_name).expand(*x.shape[:-1], -1)

    def fixed_gates(self, adapter_name: str) -> Tensor | None:
        """Gates [N] that are the same for every input (one expert, fixed or uniform gates), else None."""
        gates: Tensor | None = self._modules["fixed_gate_vectors"]._buffers.get(adapter_name)
        if gates is not None:
            return gates
        experts = self.num_experts[adapter_name]
        if experts == 1 or self.router_input[adapter_name] == "uniform":
            weight = self.hydralora_B[adapter_name].weight
            dtype = torch.promote_types(weight.dtype, torch.float32)
            device = None if weight.is_meta else weight.device  # accelerate offloads weights between calls
            return torch.full((experts,), 1 / experts, device=device, dtype=dtype)
        return None

    def check_values(self, adapter_name: str) -> None:
        """Raise ValueError if an adapter's weights are on the meta device."""
        if self.hydralora_B[adapter_name].weight.is_meta:
            raise ValueError(
                f"Expected values for the weights of adapter {adapter_name!r}, got some on the meta device: load them "
                f"first, or load the model without offloading"
            )

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether `peft.convert_to_lora` can convert this layer: its gates must be fixed."""
        return adapter_name not in self.hydralora_A or self.fixed_gates(adapter_name) is not None

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """`exact_delta_weight` in the adapter's dtype, as in PEFT's LoRA; `peft.convert_to_lora` calls it."""
        return self.exact_delta_weight(adapter_name).to(self.hydralora_B[adapter_name].weight.dtype)

    def exact_delta_weight(self, adapter_name: str) -> Tensor:
        """scaling * sum_i g_i B_i A (+ shared_scaling * B_s A_s) in the base weight's layout, in float32 or wider.

        Raises:
            ValueError: If the gates depend on the input: then no single matrix exists.
        """
        gates = self.fixed_gates(adapter_name)
        if gates is None:
            raise ValueError(merge_refusal(adapter_name, self.num_experts[adapter_name]))
        a, b = self.lora_factors(adapter_name, gates)
        delta: Tensor = (b @ a) * self.scaling[adapter_name]
        return delta.T if self.weight_is_transposed else delta

    @torch.no_grad()
    def lora_factors(self, adapter_name: str, gates: Tensor) -> tuple[Tensor, Tensor]:
        """The plain LoRA that equals the adapter with these gates: A [r', in], B [out, r'], in float32 or wider.

        The adapter adds scaling * B A. r' is r (E r with an A_i for each expert) plus the shared LoRA's rank. The
        shared LoRA's columns of B are multiplied by shared_scaling / scaling, which is 1 unless `shared_alpha` is set.

        Args:
            gates: Gates [N].

        Raises:
            ValueError: If the weights have no values.
        """
        self.check_values(adapter_name)
        rank, shared_rank = self.r[adapter_name], self.shared_rank[adapter_name]
        weight_b = self.hydralora_B[adapter_name].weight
        dtype = torch.promote_types(weight_b.dtype, torch.float32)
        a, b = self.hydralora_A[adapter_name].weight.to(dtype), weight_b.to(dtype)
        experts = expert_part(b, shared_rank).unflatten(1, (-1, rank))  # [out, E, r]
        if self.shared_expert[adapter_name]:
            gates = with_shared_expert(gates)
        gated = experts * gates.to(experts)[:, None]
        has_one_a = len(a) == rank + shared_rank
        columns = gated.sum(1) if has_one_a else gated.flatten(1)
        if shared_rank:
            ratio = self.shared_scaling[adapter_name] / self.scaling[adapter_name]
            columns = torch.cat((columns, b[:, -shared_rank:] * ratio), dim=1)
        return a, columns

    def _gates(self, x: Tensor, h: Tensor, adapter_name: str, rows: Rows | None = None) -> Tensor:
        """Gates [..., N] without the shared expert's, or [N] if they are fixed; in float32 or wider.

        Args:
            rows: The rows of the layer's input that x holds; None for all.
        """
        gates = None if self._are_given(adapter_name) else self.fixed_gates(adapter_name)
        if gates is not None:
            gates = gates.to(h.device)
        elif self.router_input[adapter_name] == "given":
            gates = self._given_gates(h.shape if rows is None else rows.shape, h.device, adapter_name, rows)
        else:
            z = h if self.router_input[adapter_name] == "low_rank" else x
            gates = softmax_gates(self.hydralora_router[adapter_name](z))
        if self.gate_observer is not None and self.num_experts[adapter_name] > 1:
            self.gate_observer(adapter_name, gates.expand(*h.shape[:-1], -1))
        return gates

    def _are_given(self, adapter_name: str) -> bool:
        """Whether the adapter uses the caller's gates. A single expert has gate 1 if none are given."""
        return (
            self.router_input[adapter_name] == "given"
            and adapter_name not in self._modules["fixed_gate_vectors"]._buffers
            and (self.num_experts[adapter_name] > 1 or self._present_gates() is not None)
        )

    def _present_gates(self) -> Tensor | None:
        """The given gates; during backward, where gradient checkpointing runs the layer again, the last ones."""
        in_backward = self.given_gates is None and torch._C._current_graph_task_id() != -1
        return self.recompute_gates if in_backward else self.given_gates

    def _given_gates(
        self, shape: torch.Size, device: torch.device, adapter_name: str, rows: Rows | None = None
    ) -> Tensor:
        """Gates [..., N] for an input of this shape, [..., d], or for some of its rows."""
        gates = self._gates_in_order(shape, device, adapter_name)
        if not gates.is_floating_point():
            gates = one_hot_gates(gates, self.num_experts[adapter_name])
        tokens = math.prod(shape[:-1])
        gates = gates.repeat_interleave(tokens // max(len(gates), 1), dim=0).view(*shape[:-1], gates.shape[-1])
        return gates if rows is None else gates[list(rows.indices)]

    def _gates_in_order(self, shape: torch.Size, device: torch.device, adapter_name: str) -> Tensor:
        """Gates [G, N], or expert indices [G], in token order: each row is for the next T / G of the T tokens."""
        gates, call = self._present_gates(), self.calls.running[-1] if self.calls.running else None
        if self.given_gates is None:
            call = call or self.last_call
        experts = self.num_experts[adapter_name]
        if gates is None:
            raise ValueError(
                f"Adapter {adapter_name!r} has router_input='given' and needs gates: call the model with "
                f"expert_gates=[batch, {experts}], or within `with hydralora.expert_gates(model, gates):` "
                f"(the only way for a PeftModel without a task_type)"
            )
        place = self.place
        if call is None:  # the layer is called directly, so its input is the batch
            call, place = Call(shape[0], batch_first=True), Place()
        self.__dict__["last_call"] = call  # nn.Module's `__setattr__` is slow
        # Layers with the same key share the result within a call, in which the gates stay the same. The key has no
        # `id(gates)`: torch.compile would compile anew for each tensor of gates.
        key = (shape, place, experts, device)
        dealt = self.calls.dealt if self.calls.running else {}
        if key in dealt:
            return dealt[key]
        dealt[key] = token_gates(gates, experts, tuple(shape[:-1]), call, place, self.calls.copies).to(device)
        return dealt[key]


def merge_refusal(adapter_name: str, num_experts: int) -> str:
    """Error text: why an adapter cannot be merged, and what to do instead."""
    return (
        f"Adapter {adapter_name!r} cannot be merged: its {num_experts} experts have gates that depend on the "
        f"input, so no single weight equals it. Fix the gates and export a plain LoRA with `hydralora.export_lora` (or "
        f"`hydralora.to_merged` for a merged model), or fix them in place with `hydralora.set_fixed_gates` and merge."
    )
