"""The mathematics of HydraLoRA in plain PyTorch: short, differentiable, and the reference for the fused path.

Tian et al., "HydraLoRA" (arXiv 2404.19245), section 3.2: y = W0 x + scaling * sum_i g_i(x) B_i A x.
The B_i are linear. So the code scales a copy of h = A x by each gate and multiplies all copies by one matrix of
experts; the sum is the same. A shared LoRA adds shared_scaling * B_s A_s x. Its A_s is stacked below A and its B_s
stands beside the B_i, so one product computes A x and A_s x, and one product applies the B_i and B_s.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor


def router_gates(z: Float[Tensor, "*tokens d"], weight_router: Float[Tensor, "N d"]) -> Float[Tensor, "*tokens N"]:
    """Gates of the experts: softmax(W_g z), at least in float32 whatever the dtype of ``z``.

    Args:
        z: Router input [..., d]: A x (d = r) or the layer's input (d = in_features).
        weight_router: Router weight W_g [N, d].

    Returns:
        Gates [..., N] that sum to 1, in float32 (float64 for float64 logits).
    """
    return softmax_gates(F.linear(z, weight_router))


def softmax_gates(logits: Float[Tensor, "*tokens N"]) -> Float[Tensor, "*tokens N"]:
    """Router logits [..., N] -> gates [..., N], in float32 (float64 for float64 logits)."""
    return torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def with_shared_expert(gates: Float[Tensor, "*tokens N"]) -> Float[Tensor, "*tokens N+1"]:
    """Append the always-on expert's gate, fixed at 1: [..., N] -> [..., N + 1]."""
    return F.pad(gates, (0, 1), value=1.0)


def one_hot_gates(index: Integer[Tensor, "*tokens"], num_experts: int) -> Float[Tensor, "*tokens {num_experts}"]:
    """Gates in float32 of one expert each: integers [...] -> [..., N].

    -1 stands for no expert. Numbers outside -1 to N - 1 give NaN, which cannot be overlooked. They raise no error,
    because checking them here would make a GPU wait.

    >>> one_hot_gates(torch.tensor([1, -1]), 3)
    tensor([[0., 1., 0.],
            [0., 0., 0.]])
    """
    experts = torch.arange(num_experts, device=index.device)
    index = index.unsqueeze(-1)
    is_known = (index >= -1) & (index < num_experts)
    return torch.where(is_known, (index == experts).float(), torch.nan)


def expert_part(low: Float[Tensor, "*tokens width"], shared_rank: int) -> Float[Tensor, "*tokens width-{shared_rank}"]:
    """The experts' part of [experts | shared LoRA] along the last dimension."""
    return low[..., : low.shape[-1] - shared_rank] if shared_rank else low


def gate_and_scale(
    low: Float[Tensor, "*tokens width"],
    gates: Float[Tensor, "*#tokens E"] | None,
    r: int,
    scaling: float,
    shared_rank: int = 0,
    shared_scaling: float = 1.0,
) -> Float[Tensor, "*tokens inner"]:
    """The inputs of B: [scaling * g_1 h | ... | scaling * g_E h | shared_scaling * h_s], [..., E * r + shared_rank].

    B [out, E * r + shared_rank] applied to them is the adapter's update: column block i of B is B_i, the last columns
    are B_s.

    Args:
        low: [h | h_s] = [A x | A_s x], [..., r + shared_rank].
        gates: See `gate_low_rank`.
        scaling: lora_alpha / r (or / sqrt(r)).
        shared_rank: Rank of the shared LoRA; 0 means none.
    """
    # Scaling r columns is cheaper than scaling all `out` columns, as PEFT's LoRA does.
    gated = gate_low_rank(expert_part(low, shared_rank) * scaling, gates, r)
    if not shared_rank:
        return gated
    return torch.cat((gated, low[..., -shared_rank:] * shared_scaling), dim=-1)


def gate_low_rank(
    h: Float[Tensor, "*tokens width"], gates: Float[Tensor, "*#tokens E"] | None, r: int
) -> Float[Tensor, "*tokens inner"]:
    """The experts' common input: a copy of h for each expert, times its gate.

    Args:
        h: A x [..., r], or [..., E * r] if each expert has its own A_i.
        gates: Gates [..., E], broadcast over h's leading dimensions. None means a single expert with gate 1.

    Returns:
        Gated copies [..., E * r].
    """
    if gates is None:
        return h
    return (gates.to(h.dtype).unsqueeze(-1) * h.unflatten(-1, (-1, r))).flatten(-2)
