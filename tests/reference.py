"""Slow, obvious twins of what the packages compute fast."""

import math

import torch
from torch import Tensor


@torch.no_grad()
def hydralora(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_a: Tensor,
    weight_b: Tensor,
    *,
    scaling: float,
    r: int,
    weight_router: Tensor | None = None,
    router_input: str = "low_rank",
    gates: Tensor | None = None,
    shared_expert: bool = False,
    shared_a: Tensor | None = None,
    shared_b: Tensor | None = None,
    shared_scaling: float = 1.0,
) -> Tensor:
    """y = W0 x + b + scaling sum_i g_i B_i A_i x + shared_scaling B_s A_s x, in float64, token by token and expert by
    expert.

    Args:
        x: [tokens, in].
        weight, bias: [out, in] and [out], the base layer.
        weight_a: [r, in], or [E r, in] with an A_i for each expert.
        weight_b: [out, E r], column block i is B_i.
        weight_router: [N, d]; None takes `gates` [tokens, N] or, without those, gate 1.
        shared_expert: the last block of B has gate 1.
        shared_a, shared_b: [s, in] and [out, s], the LoRA that is always on.
    """
    x, weight, weight_a, weight_b = (tensor.double() for tensor in (x, weight, weight_a, weight_b))
    num_blocks = weight_b.shape[1] // r
    rows = []
    for token, x_t in enumerate(x):
        y = weight @ x_t + (0 if bias is None else bias.double())
        if weight_router is not None:
            z = weight_a @ x_t if router_input == "low_rank" else x_t
            exponentials = [math.exp(float(w_i @ z)) for w_i in weight_router.double()]
            token_gates = [e / sum(exponentials) for e in exponentials]
        elif gates is not None:
            token_gates = gates[token].double().tolist()
        else:
            token_gates = [1.0]
        if shared_expert:
            token_gates = [*token_gates, 1.0]
        assert len(token_gates) == num_blocks
        for i, gate in enumerate(token_gates):
            a_i = weight_a if len(weight_a) == r else weight_a[i * r : (i + 1) * r]
            b_i = weight_b[:, i * r : (i + 1) * r]
            y = y + scaling * gate * (b_i @ (a_i @ x_t))
        if shared_a is not None and shared_b is not None:
            y = y + shared_scaling * (shared_b.double() @ (shared_a.double() @ x_t))
        rows.append(y)
    return torch.stack(rows)
