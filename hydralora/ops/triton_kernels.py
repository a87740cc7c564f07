"""Triton kernels, launched by `triton_launch`.

Ranks and experts are padded to powers of two only inside the kernels. Sums run in float32; results are rounded to the
input's dtype, as in `torch_kernels`. Without atomics, the same input gives the same bits.
"""
# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of a kernel's arguments and allows only tl.constexpr.

import triton
import triton.language as tl


@triton.jit
def _softmax_gates(logits, experts, ROUTED: tl.constexpr):
    """Gates [rows, EXPERTS_PAD]; 1 for experts that have no logit. The user of the gates masks padding."""
    logits = tl.where(experts[None, :] < ROUTED, logits, -float("inf"))
    powers = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    gates = powers / tl.sum(powers, axis=1)[:, None]
    return tl.where(experts[None, :] < ROUTED, gates, 1.0)


@triton.jit
def _router_weights(
    gating_ptr, RANK: tl.constexpr, ROUTED: tl.constexpr, RANK_PAD: tl.constexpr, EXPERTS_PAD: tl.constexpr
):
    """Weight [EXPERTS_PAD, RANK_PAD] of a router on A x."""
    ranks = tl.arange(0, RANK_PAD)
    experts = tl.arange(0, EXPERTS_PAD)
    mask = (experts[:, None] < ROUTED) & (ranks[None, :] < RANK)
    return tl.load(gating_ptr + experts[:, None] * RANK + ranks[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _gates(
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
            w = _router_weights(gating_ptr, RANK, ROUTED, h.shape[1], logits.shape[1])
            logits = tl.sum(h[:, None, :] * w[None, :, :], axis=2)
        gates = _softmax_gates(logits, experts, ROUTED)
    return gates


@triton.jit
def _project(
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
    h, h_shared, logits = _project(
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
    gates = _gates(gating_ptr, rows, row_mask, tokens_per_gate, h, logits, RANK, ROUTED, HIDDEN, GIVEN)
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
    gates = _gates(gating_ptr, rows, row_mask, tokens_per_gate, h, logits, RANK, ROUTED, HIDDEN, GIVEN)

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
            w = _router_weights(gating_ptr, RANK, ROUTED, RANK_PAD, EXPERTS_PAD)
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


@triton.jit(do_not_specialize=["tokens_per_gate"])
def add_experts_few_kernel(
    y_ptr,
    x_ptr,
    a_ptr,
    gating_ptr,
    b_ptr,
    tokens_per_gate,
    scaling,
    shared_scaling,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    RANK: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROUTED: tl.constexpr,
    HIDDEN: tl.constexpr,
    GIVEN: tl.constexpr,
    RANK_PAD: tl.constexpr,
    SHARED_PAD: tl.constexpr,
    EXPERTS_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Each program handles one token and COLUMNS outputs. It computes A x again: cheaper than a separate launch."""
    token = tl.program_id(0).to(tl.int64)
    ranks = tl.arange(0, RANK_PAD)
    experts = tl.arange(0, EXPERTS_PAD)
    dtype = y_ptr.dtype.element_ty
    shared = tl.arange(0, SHARED_PAD)
    h_parts = tl.zeros([RANK_PAD, CHUNK], dtype=tl.float32)
    shared_parts = tl.zeros([SHARED_PAD, CHUNK if SHARED > 0 else 1], dtype=tl.float32)
    logit_parts = tl.zeros([EXPERTS_PAD, CHUNK if HIDDEN else 1], dtype=tl.float32)
    for start in range(0, IN, CHUNK):
        columns = start + tl.arange(0, CHUNK)
        x = tl.load(x_ptr + token * IN + columns, mask=columns < IN, other=0.0).to(tl.float32)
        a_mask = (ranks[:, None] < RANK) & (columns[None, :] < IN)
        h_parts += tl.load(a_ptr + ranks[:, None] * IN + columns[None, :], mask=a_mask, other=0.0) * x[None, :]
        if SHARED > 0:
            s_mask = (shared[:, None] < SHARED) & (columns[None, :] < IN)
            a_shared = tl.load(a_ptr + (RANK + shared[:, None]) * IN + columns[None, :], mask=s_mask, other=0.0)
            shared_parts += a_shared * x[None, :]
        if HIDDEN:
            w_mask = (experts[:, None] < ROUTED) & (columns[None, :] < IN)
            w = tl.load(gating_ptr + experts[:, None] * IN + columns[None, :], mask=w_mask, other=0.0)
            logit_parts += w * x[None, :]
    h = tl.sum(h_parts, axis=1).to(dtype).to(tl.float32)  # rounded where the other kernel rounds

    gates = tl.full([EXPERTS_PAD], 1.0, dtype=tl.float32)
    if GIVEN == 2:
        index = tl.load(gating_ptr + token // tokens_per_gate).to(tl.int32)
        gates = tl.where(experts == index, 1.0, 0.0)
        gates = tl.where((index >= -1) & (index < ROUTED), gates, float("nan"))
    elif GIVEN:
        gate_ptrs = gating_ptr + (token // tokens_per_gate) * ROUTED + experts
        gates = tl.load(gate_ptrs, mask=experts < ROUTED, other=1.0).to(tl.float32)
    elif ROUTED > 0:
        if HIDDEN:
            logits = tl.sum(logit_parts, axis=1).to(dtype).to(tl.float32)
        else:
            w_mask = (experts[:, None] < ROUTED) & (ranks[None, :] < RANK)
            w = tl.load(gating_ptr + experts[:, None] * RANK + ranks[None, :], mask=w_mask, other=0.0)
            logits = tl.sum(w.to(tl.float32) * h[None, :], axis=1)
        logits = tl.where(experts < ROUTED, logits, -float("inf"))
        powers = tl.exp(logits - tl.max(logits, axis=0))
        gates = tl.where(experts < ROUTED, powers / tl.sum(powers, axis=0), 1.0)
    u = (gates[:, None] * h[None, :] * scaling).to(dtype).to(tl.float32)
    h_shared = tl.sum(shared_parts, axis=1).to(dtype).to(tl.float32)
    u_shared = (h_shared * shared_scaling).to(dtype).to(tl.float32)

    block_mask = (experts[None, :, None] < BLOCKS) & (ranks[None, None, :] < RANK)
    for start in range(0, COLUMNS, TILE):
        outputs = tl.program_id(1) * COLUMNS + start + tl.arange(0, TILE)
        b_offsets = (
            outputs[:, None, None] * (BLOCKS * RANK + SHARED) + experts[None, :, None] * RANK + ranks[None, None, :]
        )
        b = tl.load(b_ptr + b_offsets, mask=(outputs[:, None, None] < OUT) & block_mask, other=0.0).to(tl.float32)
        update = tl.sum(tl.sum(b * u[None, :, :], axis=2), axis=1)
        if SHARED > 0:
            shared_offsets = outputs[:, None] * (BLOCKS * RANK + SHARED) + BLOCKS * RANK + shared[None, :]
            shared_mask = (outputs[:, None] < OUT) & (shared[None, :] < SHARED)
            b_shared = tl.load(b_ptr + shared_offsets, mask=shared_mask, other=0.0).to(tl.float32)
            update += tl.sum(b_shared * u_shared[None, :], axis=1)
        y_ptrs = y_ptr + token * OUT + outputs
        y = tl.load(y_ptrs, mask=outputs < OUT, other=0.0).to(tl.float32)
        tl.store(y_ptrs, (y + update).to(dtype), mask=outputs < OUT)


@triton.jit(do_not_specialize=["tokens", "tokens_per_gate"])
def add_experts_some_kernel(
    y_ptr,
    x_ptr,
    a_ptr,
    gating_ptr,
    b_ptr,
    tokens,
    tokens_per_gate,
    scaling,
    shared_scaling,
    IN: tl.constexpr,
    OUT: tl.constexpr,
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
    COLUMNS: tl.constexpr,
):
    """Each program handles ROWS tokens and COLUMNS outputs on tensor cores; it reads B once for all its tokens."""
    dtype = y_ptr.dtype.element_ty
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row_mask = rows[:, None] < tokens
    h, h_shared, logits = _project(
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
    h = h.to(dtype).to(tl.float32)  # rounded where the other kernels round
    if HIDDEN:
        logits = logits.to(dtype).to(tl.float32)
    gates = _gates(gating_ptr, rows, row_mask, tokens_per_gate, h, logits, RANK, ROUTED, HIDDEN, GIVEN)
    INNER: tl.constexpr = EXPERTS_PAD * RANK_PAD
    u = tl.reshape(gates[:, :, None] * h[:, None, :] * scaling, [ROWS, INNER]).to(dtype)

    inner = tl.arange(0, INNER)
    expert, rank = inner // RANK_PAD, inner % RANK_PAD
    outputs = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    b_mask = (expert[:, None] < BLOCKS) & (rank[:, None] < RANK) & (outputs[None, :] < OUT)
    b_offsets = outputs[None, :].to(tl.int64) * (BLOCKS * RANK + SHARED) + expert[:, None] * RANK + rank[:, None]
    update = tl.dot(u, tl.load(b_ptr + b_offsets, mask=b_mask, other=0.0))
    if SHARED > 0:
        shared = tl.arange(0, SHARED_PAD)
        u_shared = (h_shared.to(dtype).to(tl.float32) * shared_scaling).to(dtype)
        shared_mask = (shared[:, None] < SHARED) & (outputs[None, :] < OUT)
        shared_offsets = outputs[None, :].to(tl.int64) * (BLOCKS * RANK + SHARED) + BLOCKS * RANK + shared[:, None]
        update = tl.dot(u_shared, tl.load(b_ptr + shared_offsets, mask=shared_mask, other=0.0), update)
    y_mask = row_mask & (outputs[None, :] < OUT)
    y_ptrs = y_ptr + rows[:, None] * OUT + outputs[None, :]
    tl.store(y_ptrs, (tl.load(y_ptrs, mask=y_mask, other=0.0).to(tl.float32) + update).to(dtype), mask=y_mask)
