"""Triton kernels for many tokens, launched by `triton_launch`: training, and prefills.

Ranks and experts are padded to powers of two only inside the kernels. Sums run in float32; results are rounded to the
input's dtype, as in `torch_kernels`. Without atomics, the same input gives the same bits.
"""
# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of a kernel's arguments and allows only tl.constexpr.

import triton
import triton.language as tl

from hydralora.ops.triton_gates import gates_of, project, router_weights


@triton.jit(do_not_specialize=["tokens", "tokens_per_gate"])
def project_and_gate_kernel(
    x_ptr,
    a_ptr,
    gating_ptr,
    low_ptr,
    u_ptr,
    tokens,
    tokens_per_gate,
    scaling,
    shared_scaling,
    IN: tl.constexpr,
    RANK: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROUTED: tl.constexpr,
    HIDDEN: tl.constexpr,
    GIVEN: tl.constexpr,
    RANK_PAD: tl.constexpr,
    SHARED_PAD: tl.constexpr,
    EXPERTS_PAD: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Projections of a block of tokens by A and the router, then the gated input of B."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ranks = tl.arange(0, RANK_PAD)
    experts = tl.arange(0, EXPERTS_PAD)
    row_mask = rows[:, None] < tokens
    h, h_shared, logits = project(
        x_ptr,
        a_ptr,
        gating_ptr,
        rows,
        row_mask,
        IN,
        RANK,
        SHARED,
        ROUTED,
        HIDDEN,
        RANK_PAD,
        SHARED_PAD,
        EXPERTS_PAD,
        ROWS,
        CHUNK,
    )

    # Backward reads rounded values. The forward pass rounds first, so that both use the same h and the same gates.
    WIDTH: tl.constexpr = RANK + SHARED + ROUTED if HIDDEN else RANK + SHARED
    low = h.to(low_ptr.dtype.element_ty)
    tl.store(low_ptr + rows[:, None] * WIDTH + ranks[None, :], low, mask=row_mask & (ranks[None, :] < RANK))
    h = low.to(tl.float32)
    if HIDDEN:
        low_logits = logits.to(low_ptr.dtype.element_ty)
        logit_ptrs = low_ptr + rows[:, None] * WIDTH + RANK + SHARED + experts[None, :]
        tl.store(logit_ptrs, low_logits, mask=row_mask & (experts[None, :] < ROUTED))
        logits = low_logits.to(tl.float32)
    gates = gates_of(gating_ptr, rows, row_mask, tokens_per_gate, h, logits, RANK, ROUTED, HIDDEN, GIVEN)
    u = gates[:, :, None] * h[:, None, :] * scaling
    u_offsets = rows[:, None, None] * (BLOCKS * RANK + SHARED) + experts[None, :, None] * RANK + ranks[None, None, :]
    u_mask = (rows[:, None, None] < tokens) & (experts[None, :, None] < BLOCKS) & (ranks[None, None, :] < RANK)
    tl.store(u_ptr + u_offsets, u.to(u_ptr.dtype.element_ty), mask=u_mask)
    if SHARED > 0:
        shared = tl.arange(0, SHARED_PAD)
        shared_mask = row_mask & (shared[None, :] < SHARED)
        low_shared = h_shared.to(low_ptr.dtype.element_ty)
        tl.store(low_ptr + rows[:, None] * WIDTH + RANK + shared[None, :], low_shared, mask=shared_mask)
        u_shared = (low_shared.to(tl.float32) * shared_scaling).to(u_ptr.dtype.element_ty)
        shared_offsets = rows[:, None] * (BLOCKS * RANK + SHARED) + BLOCKS * RANK + shared[None, :]
        tl.store(u_ptr + shared_offsets, u_shared, mask=shared_mask)


@triton.jit(do_not_specialize=["tokens", "tokens_per_gate"])
def gate_backward_kernel(
    grad_u_ptr,
    low_ptr,
    gating_ptr,
    u_ptr,
    grad_low_ptr,
    grad_router_ptr,
    tokens,
    tokens_per_gate,
    scaling,
    shared_scaling,
    RANK: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROUTED: tl.constexpr,
    HIDDEN: tl.constexpr,
    GIVEN: tl.constexpr,
    RANK_PAD: tl.constexpr,
    SHARED_PAD: tl.constexpr,
    EXPERTS_PAD: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Backward pass of `project_and_gate_kernel` to A x and the logits; writes the gated input of B once more."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ranks = tl.arange(0, RANK_PAD)
    experts = tl.arange(0, EXPERTS_PAD)
    row_mask = rows[:, None] < tokens
    h_mask = row_mask & (ranks[None, :] < RANK)
    logit_mask = row_mask & (experts[None, :] < ROUTED)
    WIDTH: tl.constexpr = RANK + SHARED + ROUTED if HIDDEN else RANK + SHARED
    h = tl.load(low_ptr + rows[:, None] * WIDTH + ranks[None, :], mask=h_mask, other=0.0).to(tl.float32)
    logits = tl.zeros([ROWS, EXPERTS_PAD], dtype=tl.float32)
    if HIDDEN:
        logit_ptrs = low_ptr + rows[:, None] * WIDTH + RANK + SHARED + experts[None, :]
        logits = tl.load(logit_ptrs, mask=logit_mask, other=0.0).to(tl.float32)
    gates = gates_of(gating_ptr, rows, row_mask, tokens_per_gate, h, logits, RANK, ROUTED, HIDDEN, GIVEN)

    u_offsets = rows[:, None, None] * (BLOCKS * RANK + SHARED) + experts[None, :, None] * RANK + ranks[None, None, :]
    u_mask = (rows[:, None, None] < tokens) & (experts[None, :, None] < BLOCKS) & (ranks[None, None, :] < RANK)
    u = gates[:, :, None] * h[:, None, :] * scaling
    tl.store(u_ptr + u_offsets, u.to(u_ptr.dtype.element_ty), mask=u_mask)

    grad_copies = tl.load(grad_u_ptr + u_offsets, mask=u_mask, other=0.0).to(tl.float32) * scaling
    grad_h = tl.sum(gates[:, :, None] * grad_copies, axis=1)
    if ROUTED > 0 and not GIVEN:
        grad_gates = tl.sum(h[:, None, :] * grad_copies, axis=2)
        routed = tl.where(experts[None, :] < ROUTED, gates, 0.0)
        grad_logits = routed * (grad_gates - tl.sum(routed * grad_gates, axis=1)[:, None])
        if HIDDEN:
            grad_logit_ptrs = grad_low_ptr + rows[:, None] * WIDTH + RANK + SHARED + experts[None, :]
            tl.store(grad_logit_ptrs, grad_logits.to(grad_low_ptr.dtype.element_ty), mask=logit_mask)
        else:
            w = router_weights(gating_ptr, RANK, ROUTED, RANK_PAD, EXPERTS_PAD)
            w_mask = (experts[:, None] < ROUTED) & (ranks[None, :] < RANK)
            grad_h += tl.sum(grad_logits[:, :, None] * w[None, :, :], axis=1)
            grad_w = tl.sum(grad_logits[:, :, None] * h[:, None, :], axis=0)
            partial_ptrs = grad_router_ptr + tl.program_id(0) * (ROUTED * RANK)
            tl.store(partial_ptrs + experts[:, None] * RANK + ranks[None, :], grad_w, mask=w_mask)
    tl.store(
        grad_low_ptr + rows[:, None] * WIDTH + ranks[None, :], grad_h.to(grad_low_ptr.dtype.element_ty), mask=h_mask
    )
    if SHARED > 0:
        shared = tl.arange(0, SHARED_PAD)
        shared_mask = row_mask & (shared[None, :] < SHARED)
        low_offsets = rows[:, None] * WIDTH + RANK + shared[None, :]
        u_offsets_shared = rows[:, None] * (BLOCKS * RANK + SHARED) + BLOCKS * RANK + shared[None, :]
        h_shared = tl.load(low_ptr + low_offsets, mask=shared_mask, other=0.0).to(tl.float32)
        grad_shared = tl.load(grad_u_ptr + u_offsets_shared, mask=shared_mask, other=0.0).to(tl.float32)
        tl.store(u_ptr + u_offsets_shared, (h_shared * shared_scaling).to(u_ptr.dtype.element_ty), mask=shared_mask)
        grad_h_shared = (grad_shared * shared_scaling).to(grad_low_ptr.dtype.element_ty)
        tl.store(grad_low_ptr + low_offsets, grad_h_shared, mask=shared_mask)


@triton.jit(do_not_specialize=["tokens"])
def accumulate_kernel(
    y_ptr,
    u_ptr,
    v_ptr,
    tokens,
    WIDTH: tl.constexpr,
    INNER: tl.constexpr,
    V_INNER_STRIDE: tl.constexpr,
    V_WIDTH_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER_CHUNK: tl.constexpr,
):
    """Add a gated product with B to the base layer's output, in place."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row_mask = rows[:, None] < tokens
    column_mask = columns[None, :] < WIDTH
    y_ptrs = y_ptr + rows[:, None] * WIDTH + columns[None, :]
    y = tl.load(y_ptrs, mask=row_mask & column_mask, other=0.0)
    sums = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for start in tl.static_range(0, INNER, INNER_CHUNK):
        inner = start + tl.arange(0, INNER_CHUNK)
        u_ptrs = u_ptr + rows[:, None] * INNER + inner[None, :]
        u = tl.load(u_ptrs, mask=row_mask & (inner[None, :] < INNER), other=0.0)
        v_ptrs = v_ptr + inner[:, None] * V_INNER_STRIDE + columns[None, :] * V_WIDTH_STRIDE
        v = tl.load(v_ptrs, mask=(inner[:, None] < INNER) & column_mask, other=0.0)
        sums = tl.dot(u, v, sums)
    tl.store(y_ptrs, (y.to(tl.float32) + sums).to(y_ptr.dtype.element_ty), mask=row_mask & column_mask)
