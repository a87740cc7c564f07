"""The mathematics of the method, apart from PEFT: eager functions and the fused path of a whole layer."""

from hydralora.ops.eager import add_experts, router_gates, with_shared_expert

__all__ = ["add_experts", "router_gates", "with_shared_expert"]
