"""The mathematics of the method, without PEFT: eager functions, and the fused path of a whole layer."""

from hydralora.ops.eager import gate_and_scale, router_gates, with_shared_expert
from hydralora.ops.fused import can_fuse, hydra_linear, is_hooked

__all__ = [
    "can_fuse",
    "gate_and_scale",
    "hydra_linear",
    "is_hooked",
    "router_gates",
    "with_shared_expert",
]
