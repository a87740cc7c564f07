"""The mathematics of HydraLoRA in plain PyTorch: short, differentiable, and the reference for the fused path.

Tian et al., "HydraLoRA" (arXiv 2404.19245), section 3.2: y = W0 x + scaling * sum_i g_i(x) B_i A x.
The B_i are linear. So the code scales a copy of h = A x by each gate and multiplies all copies by one matrix of
experts; the sum is the same. A shared LoRA adds shared_scaling * B_s A_s x. Its A_s is stacked below A and its B_s
stands beside the B_i, so one product computes A x and A_s x, and one product applies the B_i and B_s.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def router_gates(z: Tensor, weight_router: Tensor) -> Tensor:
    """Gates of the experts: softmax(W_g z), in float32 or wider for any dtype of ``z``.

    Args:
        z: Router input [..., d]: A x (d = r) or the layer's input (d = in_features).
        weight_router: Router weight W_g [N, d].

    Returns:
        Gates [..., N] that sum to 1, in float32 (float64 for float64 logits).
    """
    return softmax_gates(F.linear(z, weight_router))


def softmax_gates(logits: Tensor) -> Tensor:
    """Router logits [..., N] -> gates [..., N], in float32 (float64 for float64 logits)."""
    return torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def with_shared_expert(gates: Tensor) -> Tensor:
    """Append the shared expert's gate, which is always 1: [..., N] -> [..., N + 1]."""
    return F.pad(gates, (0, 1), value=1.0)


def one_hot_gates(index: Tensor, num_experts: int) -> Tensor:
    """One-hot gates in float32 from expert indices: integers [...] -> [..., N].

    -1 means no expert. An index outside -1 to N - 1 gives NaN gates, so that the error shows in the outputs: a check
    here would have to wait for the GPU.
    """
    experts = torch.arange(num_experts, device=index.device)
    index = index.unsqueeze(-1)
    is_known = (index >= -1) & (index < num_experts)
    return torch.where(is_known, (index == experts).float(), torch.nan)


def add_experts(
    result: Tensor,
    low: Tensor,
    gates: Tensor | None,
    weight_b: Tensor,
    scaling: float,
    shared_rank: int = 0,
    shared_scaling: float = 1.0,
) -> Tensor:
    """Add experts and shared LoRA to the base layer's output.

    Computes result + scaling * sum_i g_i B_i h + shared_scaling * B_s h_s.

    Args:
        result: Output of the base layer [..., out].
        low: [h | h_s] = [A x | A_s x], [..., r + shared_rank].
        gates: Gates [..., E], one for each column block of experts, broadcast over h's leading dimensions. None means a
            single expert with gate 1.
        weight_b: Matrix [out, E * r + shared_rank]. Column block i is B_i, the last columns are B_s.
        scaling: lora_alpha / r (or / sqrt(r)).
        shared_rank: Rank of the shared LoRA; 0 means none.
        shared_scaling: Scaling of the shared LoRA.

    Returns:
        Output [..., out] in the promoted dtype of ``result`` and ``low``; the caller casts to the base layer's dtype.
    """
    r = low.shape[-1] - shared_rank
    return result + F.linear(gate_and_scale(low, gates, r, scaling, shared_rank, shared_scaling), weight_b)


def expert_part(low: Tensor, shared_rank: int) -> Tensor:
    """The experts' part of a tensor whose last dimension is [experts | shared LoRA]."""
    return low[..., : low.shape[-1] - shared_rank] if shared_rank else low


def gate_and_scale(
    low: Tensor, gates: Tensor | None, r: int, scaling: float, shared_rank: int = 0, shared_scaling: float = 1.0
) -> Tensor:
    """The input of B: [scaling * g_1 h | ... | scaling * g_E h | shared_scaling * h_s], [..., E * r + shared_rank].

    For the arguments, see `add_experts` and `gate_low_rank`.
    """
    # Scaling r columns is cheaper than scaling all `out` columns, as PEFT's LoRA does.
    gated = gate_low_rank(expert_part(low, shared_rank) * scaling, gates, r)
    if not shared_rank:
        return gated
    return torch.cat((gated, low[..., -shared_rank:] * shared_scaling), dim=-1)


def gate_low_rank(h: Tensor, gates: Tensor | None, r: int) -> Tensor:
    """The input of all experts: a copy of h for each expert, multiplied by its gate.

    Args:
        h: A x [..., r], or [..., E * r] if each expert has its own A_i.
        gates: Gates [..., E], broadcast over h's leading dimensions. None means a single expert with gate 1.
        r: Rank of an expert.

    Returns:
        Gated copies [..., E * r].
    """
    if gates is None:
        return h
    gated: Tensor = gates.to(h.dtype).unsqueeze(-1) * h.unflatten(-1, (-1, r))
    return gated.flatten(-2)
