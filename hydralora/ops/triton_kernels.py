"""The small pieces of `small` as Triton kernels: one launch each, where PyTorch needs about eight.

Ranks and experts are padded to powers of two inside the kernels only. Sums run in float32; what is stored is rounded to
the input's dtype, as the plain pieces do. No atomics: the same input gives the same bits.
"""
# mypy: disable-error-code="no-untyped-def"
# (Triton reads the annotations of a kernel's arguments: only tl.constexpr may stand there.)

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FEW_TOKENS = 32  # up to here one launch that computes A x many times beats two that compute it once
_ROWS = 16  # tokens a program: 2048 tokens make 128 programs, one for each multiprocessor of an H100


def supports(x: Tensor) -> bool:
    """Half precision on CUDA, at least one row. Products in float32 stay with cuBLAS and PyTorch's TF32 switch."""
    return (x.is_cuda or _INTERPRETED) and x.dtype in (torch.float16, torch.bfloat16) and x.shape[0] > 0


@triton.jit
def _softmax_gates(logits, experts, ROUTED: tl.constexpr):
    """[rows, EXPERTS_PAD] gates; 1 for experts the router does not know. Padding is masked where it is used."""
    logits = tl.where(experts[None, :] < ROUTED, logits, -float("inf"))
    powers = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    gates = powers / tl.sum(powers, axis=1)[:, None]
    return tl.where(experts[None, :] < ROUTED, gates, 1.0)


@triton.jit(do_not_specialize=["tokens"])
def _project_and_gate_kernel(
    x_ptr,
    a_ptr,
    router_ptr,
    low_ptr,
    u_ptr,
    tokens,
    scaling,
    IN: tl.constexpr,
    RANK: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROUTED: tl.constexpr,
    HIDDEN: tl.constexpr,
    RANK_PAD: tl.constexpr,
    EXPERTS_PAD: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ranks = tl.arange(0, RANK_PAD)
    experts = tl.arange(0, EXPERTS_PAD)
    row_mask = rows[:, None] < tokens
    h = tl.zeros([ROWS, RANK_PAD], dtype=tl.float32)
    logits = tl.zeros([ROWS, EXPERTS_PAD], dtype=tl.float32)
    for start in range(0, IN, CHUNK):
        columns = start + tl.arange(0, CHUNK)
        x = tl.load(x_ptr + rows[:, None] * IN + columns[None, :], mask=row_mask & (columns[None, :] < IN), other=0.0)
        a_mask = (ranks[None, :] < RANK) & (columns[:, None] < IN)
        a = tl.load(a_ptr + ranks[None, :] * IN + columns[:, None], mask=a_mask, other=0.0)
        h = tl.dot(x, a, h)
        if HIDDEN:
            w_mask = (experts[None, :] < ROUTED) & (columns[:, None] < IN)
            w = tl.load(router_ptr + experts[None, :] * IN + columns[:, None], mask=w_mask, other=0.0)
            logits = tl.dot(x, w, logits)

    # What backward will read is rounded, so the forward pass rounds first: both see the same h and the same gates.
    WIDTH: tl.constexpr = RANK + ROUTED if HIDDEN else RANK
    low = h.to(low_ptr.dtype.element_ty)
    tl.store(low_ptr + rows[:, None] * WIDTH + ranks[None, :], low, mask=row_mask & (ranks[None, :] < RANK))
    h = low.to(tl.float32)
    gates = tl.full([ROWS, EXPERTS_PAD], 1.0, dtype=tl.float32)
    if ROUTED > 0:
        if HIDDEN:
            low_logits = logits.to(low_ptr.dtype.element_ty)
            logit_ptrs = low_ptr + rows[:, None] * WIDTH + RANK + experts[None, :]
            tl.store(logit_ptrs, low_logits, mask=row_mask & (experts[None, :] < ROUTED))
            logits = low_logits.to(tl.float32)
        else:
            w_mask = (experts[:, None] < ROUTED) & (ranks[None, :] < RANK)
            w = tl.load(router_ptr + experts[:, None] * RANK + ranks[None, :], mask=w_mask, other=0.0).to(tl.float32)
            logits = tl.sum(h[:, None, :] * w[None, :, :], axis=2)
        gates = _softmax_gates(logits, experts, ROUTED)
    u = gates[:, :, None] * h[:, None, :] * scaling
    u_offsets = rows[:, None, None] * (BLOCKS * RANK) + experts[None, :, None] * RANK + ranks[None, None, :]
    u_mask = (rows[:, None, None] < tokens) & (experts[None, :, None] < BLOCKS) & (ranks[None, None, :] < RANK)
    tl.store(u_ptr + u_offsets, u.to(u_ptr.dtype.element_ty), mask=u_mask)


@triton.jit(do_not_specialize=["tokens"])
def _gate_backward_kernel(
    grad_u_ptr,
    low_ptr,
    router_ptr,
    u_ptr,
    grad_low_ptr,
    grad_router_ptr,
    tokens,
    scaling,
    RANK: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROUTED: tl.constexpr,
    HIDDEN: tl.constexpr,
    RANK_PAD: tl.constexpr,
    EXPERTS_PAD: tl.constexpr,
    ROWS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ranks = tl.arange(0, RANK_PAD)
    experts = tl.arange(0, EXPERTS_PAD)
    row_mask = rows[:, None] < tokens
    h_mask = row_mask & (ranks[None, :] < RANK)
    logit_mask = row_mask & (experts[None, :] < ROUTED)
    WIDTH: tl.constexpr = RANK + ROUTED if HIDDEN else RANK
    h = tl.load(low_ptr + rows[:, None] * WIDTH + ranks[None, :], mask=h_mask, other=0.0).to(tl.float32)
    w_mask = (experts[:, None] < ROUTED) & (ranks[None, :] < RANK)

    gates = tl.full([ROWS, EXPERTS_PAD], 1.0, dtype=tl.float32)
    if ROUTED > 0:
        if HIDDEN:
            logit_ptrs = low_ptr + rows[:, None] * WIDTH + RANK + experts[None, :]
            logits = tl.load(logit_ptrs, mask=logit_mask, other=0.0).to(tl.float32)
        else:
            w = tl.load(router_ptr + experts[:, None] * RANK + ranks[None, :], mask=w_mask, other=0.0).to(tl.float32)
            logits = tl.sum(h[:, None, :] * w[None, :, :], axis=2)
        gates = _softmax_gates(logits, experts, ROUTED)

    u_offsets = rows[:, None, None] * (BLOCKS * RANK) + experts[None, :, None] * RANK + ranks[None, None, :]
    u_mask = (rows[:, None, None] < tokens) & (experts[None, :, None] < BLOCKS) & (ranks[None, None, :] < RANK)
    u = gates[:, :, None] * h[:, None, :] * scaling
    tl.store(u_ptr + u_offsets, u.to(u_ptr.dtype.element_ty), mask=u_mask)

    grad_copies = tl.load(grad_u_ptr + u_offsets, mask=u_mask, other=0.0).to(tl.float32) * scaling
    grad_h = tl.sum(gates[:, :, None] * grad_copies, axis=1)
    if ROUTED > 0:
        grad_gates = tl.sum(h[:, None, :] * grad_copies, axis=2)
        routed = tl.where(experts[None, :] < ROUTED, gates, 0.0)
        grad_logits = routed * (grad_gates - tl.sum(routed * grad_gates, axis=1)[:, None])
        if HIDDEN:
            grad_logit_ptrs = grad_low_ptr + rows[:, None] * WIDTH + RANK + experts[None, :]
            tl.store(grad_logit_ptrs, grad_logits.to(grad_low_ptr.dtype.element_ty), mask=logit_mask)
        else:
            grad_h += tl.sum(grad_logits[:, :, None] * w[None, :, :], axis=1)
            grad_w = tl.sum(grad_logits[:, :, None] * h[:, None, :], axis=0)
            partial_ptrs = grad_router_ptr + tl.program_id(0) * (ROUTED * RANK)
            tl.store(partial_ptrs + experts[:, None] * RANK + ranks[None, :], grad_w, mask=w_mask)
    tl.store(
        grad_low_ptr + rows[:, None] * WIDTH + ranks[None, :], grad_h.to(grad_low_ptr.dtype.element_ty), mask=h_mask
    )


@triton.jit(do_not_specialize=["tokens"])
def _accumulate_kernel(
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


@triton.jit
def _add_experts_few_kernel(
    y_ptr,
    x_ptr,
    a_ptr,
    router_ptr,
    b_ptr,
    scaling,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    RANK: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROUTED: tl.constexpr,
    HIDDEN: tl.constexpr,
    RANK_PAD: tl.constexpr,
    EXPERTS_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
):
    """One token and COLUMNS outputs a program. Each program computes A x again: cheaper than a launch of its own."""
    token = tl.program_id(0).to(tl.int64)
    ranks = tl.arange(0, RANK_PAD)
    experts = tl.arange(0, EXPERTS_PAD)
    dtype = y_ptr.dtype.element_ty
    h_parts = tl.zeros([RANK_PAD, CHUNK], dtype=tl.float32)
    logit_parts = tl.zeros([EXPERTS_PAD, CHUNK if HIDDEN else 1], dtype=tl.float32)
    for start in range(0, IN, CHUNK):
        columns = start + tl.arange(0, CHUNK)
        x = tl.load(x_ptr + token * IN + columns, mask=columns < IN, other=0.0).to(tl.float32)
        a_mask = (ranks[:, None] < RANK) & (columns[None, :] < IN)
        h_parts += tl.load(a_ptr + ranks[:, None] * IN + columns[None, :], mask=a_mask, other=0.0) * x[None, :]
        if HIDDEN:
            w_mask = (experts[:, None] < ROUTED) & (columns[None, :] < IN)
            w = tl.load(router_ptr + experts[:, None] * IN + columns[None, :], mask=w_mask, other=0.0)
            logit_parts += w * x[None, :]
    h = tl.sum(h_parts, axis=1).to(dtype).to(tl.float32)  # rounded where the other kernel rounds

    gates = tl.full([EXPERTS_PAD], 1.0, dtype=tl.float32)
    if ROUTED > 0:
        if HIDDEN:
            logits = tl.sum(logit_parts, axis=1).to(dtype).to(tl.float32)
        else:
            w_mask = (experts[:, None] < ROUTED) & (ranks[None, :] < RANK)
            w = tl.load(router_ptr + experts[:, None] * RANK + ranks[None, :], mask=w_mask, other=0.0)
            logits = tl.sum(w.to(tl.float32) * h[None, :], axis=1)
        logits = tl.where(experts < ROUTED, logits, -float("inf"))
        powers = tl.exp(logits - tl.max(logits, axis=0))
        gates = tl.where(experts < ROUTED, powers / tl.sum(powers, axis=0), 1.0)
    u = (gates[:, None] * h[None, :] * scaling).to(dtype).to(tl.float32)

    block_mask = (experts[None, :, None] < BLOCKS) & (ranks[None, None, :] < RANK)
    for start in range(0, COLUMNS, TILE):
        outputs = tl.program_id(1) * COLUMNS + start + tl.arange(0, TILE)
        b_offsets = outputs[:, None, None] * (BLOCKS * RANK) + experts[None, :, None] * RANK + ranks[None, None, :]
        b = tl.load(b_ptr + b_offsets, mask=(outputs[:, None, None] < OUT) & block_mask, other=0.0).to(tl.float32)
        update = tl.sum(tl.sum(b * u[None, :, :], axis=2), axis=1)
        y_ptrs = y_ptr + token * OUT + outputs
        y = tl.load(y_ptrs, mask=outputs < OUT, other=0.0).to(tl.float32)
        tl.store(y_ptrs, (y + update).to(dtype), mask=outputs < OUT)


_compiled: dict[tuple[Any, ...], Any] = {}


def _launch(
    kernel: Any,
    grid: tuple[int, int, int],
    tensors: tuple[Tensor, ...],
    scalars: tuple[Any, ...],
    constants: tuple[Any, ...],
    **options: int,
) -> None:
    """kernel[grid](*tensors, *scalars, *constants): a kernel seen before goes straight to its launcher.

    Small layers and decoding are bound by launches, and binding and hashing a kernel's arguments is most of one.
    Triton specialises on dtype and on alignment to 16 bytes. Of scalars it specialises integers, unless told not to, as
    for the number of tokens here.
    """
    device = tensors[0].device
    if device.index is not None and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            return _launch(kernel, grid, tensors, scalars, constants, **options)
    key = (kernel, device.index, constants, *[t.dtype if t.data_ptr() % 16 == 0 else (t.dtype,) for t in tensors])
    compiled = _compiled.get(key)
    if compiled is None:
        _compiled[key] = kernel[grid](*tensors, *scalars, *constants, **options)
    else:
        compiled[grid](*tensors, *scalars, *constants)
    return None


def project_and_gate(
    x: Tensor, weight_a: Tensor, router: Tensor | None, blocks: int, scaling: float, hidden: bool
) -> tuple[Tensor, Tensor]:
    """As `small.project_and_gate`."""
    tokens, in_features = x.shape
    rank = weight_a.shape[0]
    routed = 0 if router is None else router.shape[0]
    low = x.new_empty(tokens, rank + routed if hidden else rank)
    u = x.new_empty(tokens, blocks * rank)
    # 4 stages of 256 columns: within 10% of the time cuBLAS takes for A x alone on an H100.
    _launch(
        _project_and_gate_kernel,
        (_cdiv(tokens, _ROWS), 1, 1),
        (x, weight_a.contiguous(), x if router is None else router.contiguous(), low, u),
        (tokens, float(scaling)),
        (in_features, rank, blocks, routed, hidden, _pad(rank), _pad(blocks), _ROWS, 256),
        num_warps=4,
        num_stages=4,
    )
    return low, u


def gate_backward(
    grad_u: Tensor, low: Tensor, router: Tensor | None, rank: int, scaling: float, hidden: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `small.gate_backward`."""
    tokens, width = grad_u.shape
    blocks = width // rank
    routed = 0 if router is None else router.shape[0]
    programs = _cdiv(tokens, _ROWS)
    u, grad_low = torch.empty_like(grad_u), torch.empty_like(low)
    # One partial sum a program, added up in a fixed order.
    partial = None if router is None or hidden else low.new_empty(programs, routed, rank, dtype=torch.float32)
    router_or_any = low if router is None else router.contiguous()
    _launch(
        _gate_backward_kernel,
        (programs, 1, 1),
        (grad_u, low, router_or_any, u, grad_low, low if partial is None else partial),
        (tokens, float(scaling)),
        (rank, blocks, routed, hidden, _pad(rank), _pad(blocks), _ROWS),
        num_warps=4,
    )
    return u, grad_low, None if partial is None else partial.sum(0)


def accumulate(y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """As `small.accumulate`: bound by reading and writing y once, and cuBLAS takes a third longer (k is small)."""
    tokens, width = y.shape
    inner = u.shape[1]
    _launch(
        _accumulate_kernel,
        (_cdiv(tokens, 64), _cdiv(width, 128), 1),
        (y, u, v),
        (tokens,),
        (width, inner, v.stride(0), v.stride(1), 64, 128, min(128, max(16, _pad(inner)))),
        num_warps=4,
    )
    return y


def add_experts_few(
    y: Tensor, x: Tensor, weight_a: Tensor, router: Tensor | None, weight_b: Tensor, scaling: float, hidden: bool
) -> None:
    """y += scaling * sum_i g_i B_i A x in one launch, for a few tokens and no gradients: y [T, out], x [T, in]."""
    tokens, in_features = x.shape
    out_features = y.shape[1]
    rank = weight_a.shape[0]
    blocks = weight_b.shape[1] // rank
    rank_pad, experts_pad = _pad(rank), _pad(blocks)
    columns = 128 if tokens <= 4 else 512  # few programs would leave the chip idle, many would read A too often
    chunk = max(64, 16384 // max(rank_pad, experts_pad if hidden else 1))
    tile = min(columns, max(8, 16384 // (rank_pad * experts_pad)))
    routed = 0 if router is None else router.shape[0]
    _launch(
        _add_experts_few_kernel,
        (tokens, _cdiv(out_features, columns), 1),
        (y, x, weight_a.contiguous(), x if router is None else router.contiguous(), weight_b.contiguous()),
        (float(scaling),),
        (in_features, out_features, rank, blocks, routed, hidden, rank_pad, experts_pad, chunk, columns, tile),
        num_warps=16,
    )


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _pad(n: int) -> int:
    """The next power of two."""
    return 1 << (n - 1).bit_length()
