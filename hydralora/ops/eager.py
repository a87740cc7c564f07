"""The mathematics of HydraLoRA in plain PyTorch: short, differentiable, and the reference for the fused path.

Tian et al., "HydraLoRA" (arXiv 2404.19245), section 3.2: y = W0 x + scaling * sum_i g_i(x) B_i A x.
The B_i are linear, so scaling each copy of h = A x by its gate and applying all experts as one matrix is the same sum.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def router_gates(z: Tensor, weight_router: Tensor) -> Tensor:
    """Gates of the experts: softmax(W_g z), at least in float32 whatever the dtype of ``z``.

    Args:
        z: router input [..., d], A x (d = r) or the layer's input (d = in_features).
        weight_router: [N, d].

    Returns:
        Gates [..., N] that sum to 1, in float32 (float64 for float64 logits).
    """
    return softmax_gates(F.linear(z, weight_router))


def softmax_gates(logits: Tensor) -> Tensor:
    """Router logits [..., N] -> gates [..., N], in float32 (float64 for float64 logits)."""
    return torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def with_shared_expert(gates: Tensor) -> Tensor:
    """Append the always-on expert's gate, fixed at 1: [..., N] -> [..., N + 1]."""
    return F.pad(gates, (0, 1), value=1.0)


def add_experts(result: Tensor, h: Tensor, gates: Tensor | None, weight_b: Tensor, scaling: float) -> Tensor:
    """Add the gated sum of experts to the base layer's output: result + scaling * sum_i g_i B_i h.

    Args:
        result: output of the base layer [..., out].
        h: A x, [..., r].
        gates: [..., E], one for each column block of ``weight_b``, broadcast over h's leading dimensions;
            None stands for a single expert with gate 1.
        weight_b: [out, E * r], column block i is B_i.
        scaling: lora_alpha / r (or / sqrt(r)).

    Returns:
        [..., out] in the promoted dtype of ``result`` and ``h``; the caller casts to the base layer's dtype.
    """
    # Scaling r columns is cheaper than all `out` columns, as PEFT's LoRA does.
    return result + F.linear(gate_low_rank(h * scaling, gates, h.shape[-1]), weight_b)


def gate_low_rank(h: Tensor, gates: Tensor | None, r: int) -> Tensor:
    """The experts' common input: a copy of h for each expert, times its gate.

    Args:
        h: A x [..., r], or [..., E * r] where each expert has its own A_i.
        gates: [..., E], broadcast over h's leading dimensions; None stands for a single expert with gate 1.

    Returns:
        [..., E * r].
    """
    if gates is None:
        return h
    gated: Tensor = gates.to(h.dtype).unsqueeze(-1) * h.unflatten(-1, (-1, r))
    return gated.flatten(-2)
