"""Triton kernels that decode a few tokens in one launch, without gradients; `triton_launch` chooses between them."""
# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of a kernel's arguments and allows only tl.constexpr.

import triton
import triton.language as tl

from hydralora.ops.triton_gates import gates_of, project


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
    h = tl.sum(h_parts, axis=1).to(dtype).to(tl.float32)  # rounded at the same place as in the other kernel

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
    h = h.to(dtype).to(tl.float32)  # rounded at the same place as in the other kernels
    if HIDDEN:
        logits = logits.to(dtype).to(tl.float32)
    gates = gates_of(gating_ptr, rows, row_mask, tokens_per_gate, h, logits, RANK, ROUTED, HIDDEN, GIVEN)
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
