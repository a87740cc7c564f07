"""Shared by the Triton kernels: projections by A and the router, and gates."""
# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of a kernel's arguments and allows only tl.constexpr.

import triton
import triton.language as tl


@triton.jit
def softmax_gates(logits, experts, ROUTED: tl.constexpr):
    """Gates [rows, EXPERTS_PAD]; 1 for experts that have no logit. The user of the gates masks padding."""
    logits = tl.where(experts[None, :] < ROUTED, logits, -float("inf"))
    powers = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    gates = powers / tl.sum(powers, axis=1)[:, None]
    return tl.where(experts[None, :] < ROUTED, gates, 1.0)


@triton.jit
def router_weights(
    gating_ptr, RANK: tl.constexpr, ROUTED: tl.constexpr, RANK_PAD: tl.constexpr, EXPERTS_PAD: tl.constexpr
):
    """Weight [EXPERTS_PAD, RANK_PAD] of a router on A x."""
    ranks = tl.arange(0, RANK_PAD)
    experts = tl.arange(0, EXPERTS_PAD)
    mask = (experts[:, None] < ROUTED) & (ranks[None, :] < RANK)
    return tl.load(gating_ptr + experts[:, None] * RANK + ranks[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def gates_of(
    gating_ptr,
    rows,
    row_mask,
    tokens_per_gate,
    h,
    logits,
    RANK: tl.constexpr,
    ROUTED: tl.constexpr,
    HIDDEN: tl.constexpr,
    GIVEN: tl.constexpr,
):
    """Gates [rows, EXPERTS_PAD]: given (GIVEN), from `logits` (HIDDEN), or from a router on h. A shared expert has 1.

    GIVEN: 0 for a router, 1 for gates, 2 for an expert index as in `eager.one_hot_gates`.
    """
    experts = tl.arange(0, logits.shape[1])
    gates = tl.full(logits.shape, 1.0, dtype=tl.float32)
    if GIVEN == 2:
        index = tl.load(gating_ptr + (rows // tokens_per_gate)[:, None], mask=row_mask, other=-1).to(tl.int32)
        gates = tl.where(experts[None, :] == index, 1.0, 0.0)
        gates = tl.where((index >= -1) & (index < ROUTED), gates, float("nan"))
    elif GIVEN:
        pointers = gating_ptr + (rows // tokens_per_gate)[:, None] * ROUTED + experts[None, :]
        gates = tl.load(pointers, mask=row_mask & (experts[None, :] < ROUTED), other=1.0).to(tl.float32)
    elif ROUTED > 0:
        if not HIDDEN:
            w = router_weights(gating_ptr, RANK, ROUTED, h.shape[1], logits.shape[1])
            logits = tl.sum(h[:, None, :] * w[None, :, :], axis=2)
        gates = softmax_gates(logits, experts, ROUTED)
    return gates


@triton.jit
def project(
    x_ptr,
    a_ptr,
    gating_ptr,
    rows,
    row_mask,
    IN: tl.constexpr,
    RANK: tl.constexpr,
    SHARED: tl.constexpr,
    ROUTED: tl.constexpr,
    HIDDEN: tl.constexpr,
    RANK_PAD: tl.constexpr,
    SHARED_PAD: tl.constexpr,
    EXPERTS_PAD: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Compute in one pass over x: the experts' A x [ROWS, RANK_PAD], the shared LoRA's A_s x [ROWS, SHARED_PAD] (SHARED
    columns are used), and the logits of a router on x [ROWS, EXPERTS_PAD] (zeros unless HIDDEN)."""
    ranks = tl.arange(0, RANK_PAD)
    shared = tl.arange(0, SHARED_PAD)
    experts = tl.arange(0, EXPERTS_PAD)
    h = tl.zeros([ROWS, RANK_PAD], dtype=tl.float32)
    h_shared = tl.zeros([ROWS, SHARED_PAD], dtype=tl.float32)
    logits = tl.zeros([ROWS, EXPERTS_PAD], dtype=tl.float32)
    for start in range(0, IN, CHUNK):
        columns = start + tl.arange(0, CHUNK)
        x = tl.load(x_ptr + rows[:, None] * IN + columns[None, :], mask=row_mask & (columns[None, :] < IN), other=0.0)
        a_mask = (ranks[None, :] < RANK) & (columns[:, None] < IN)
        a = tl.load(a_ptr + ranks[None, :] * IN + columns[:, None], mask=a_mask, other=0.0)
        h = tl.dot(x, a, h)
        if SHARED > 0:
            s_mask = (shared[None, :] < SHARED) & (columns[:, None] < IN)
            a_shared = tl.load(a_ptr + (RANK + shared[None, :]) * IN + columns[:, None], mask=s_mask, other=0.0)
            h_shared = tl.dot(x, a_shared, h_shared)
        if HIDDEN:
            w_mask = (experts[None, :] < ROUTED) & (columns[:, None] < IN)
            w = tl.load(gating_ptr + experts[None, :] * IN + columns[:, None], mask=w_mask, other=0.0)
            logits = tl.dot(x, w, logits)
    return h, h_shared, logits
