"""The operations of `torch_kernels` on CUDA: each is one launch of a Triton kernel; PyTorch needs about eight.

With torch.compile the kernels are part of the graph: Inductor keeps them and fuses the operations around them.
"""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton import knobs

from hydralora.ops import triton_few_tokens, triton_kernels

_TAKES_NINE = triton.__version__.startswith("3.6.")  # whether Triton's C launcher takes the arguments below
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FEW_TOKENS = 32  # up to here, one launch that computes A x many times is faster than two that compute it once
_VECTOR_OUTPUTS = 40_000  # up to this total number of outputs: one program per token, without tensor cores
_ROWS = 16  # tokens per program: 2048 tokens make 128 programs, about one for each multiprocessor of an H100


def supports(x: Tensor) -> bool:
    """Whether the kernels apply: half precision on CUDA, at least one row. Float32 products stay with cuBLAS, where
    PyTorch's TF32 switch works."""
    return (x.is_cuda or _INTERPRETED) and x.dtype in (torch.float16, torch.bfloat16) and x.shape[0] > 0


# For a compiled kernel: the launch function, the arguments before the metadata (its handle first), and the metadata.
_Launcher = tuple[Callable[..., None], tuple[Any, ...], Any]
_launchers: dict[tuple[Any, ...], _Launcher] = {}


def _launch(
    kernel: Any,
    grid: tuple[int, int, int],
    tensors: tuple[Tensor, ...],
    scalars: tuple[Any, ...],
    constants: tuple[Any, ...],
    **options: int,
) -> None:
    """Run kernel[grid](*tensors, *scalars, *constants); a kernel that was run before is launched directly.

    Launches dominate the time of small layers and of decoding, and argument binding and hashing dominate launch cost.
    Triton specialises on dtype, on alignment to 16 bytes, and on integer scalars that are not excluded (the number of
    tokens is). A launcher that gets a tensor's address instead of the tensor does not query the driver for it.
    """
    if torch.compiler.is_compiling():
        kernel[grid](*tensors, *scalars, *constants, **options)
        return None
    device = tensors[0].device
    index = device.index
    if index is not None and index != torch._C._cuda_getDevice():
        with torch.cuda.device(device):
            return _launch(kernel, grid, tensors, scalars, constants, **options)
    addresses = [t.data_ptr() for t in tensors]
    all_bits = 0
    for address in addresses:
        all_bits |= address
    unaligned = tuple([address % 16 for address in addresses]) if all_bits % 16 else None
    # `id`, because the hash of a kernel takes a lock.
    key = (id(kernel), index, constants, unaligned, *[t.dtype for t in tensors])
    launcher = _launchers.get(key)
    if launcher is None or _profiled():
        compiled = kernel[grid](*tensors, *scalars, *constants, **options)
        if compiled is not None:  # it is None in Triton's interpreter
            _launchers[key] = _launcher(compiled)
    else:  # the last call in kernel[grid], without launch hooks and the data for them
        launch, before, metadata = launcher
        stream = torch._C._cuda_getCurrentRawStream(index)
        launch(*grid, stream, *before, metadata, None, None, None, *addresses, *scalars, *constants)
    return None


def _launcher(compiled: Any) -> _Launcher:
    """The launcher in C if Triton is 3.6 and the kernel needs no scratch memory, else the Python object around it."""
    run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
    names = ("launch", "launch_cooperative_grid", "launch_pdl", "global_scratch_size", "profile_scratch_size")
    parts: list[Any] = [getattr(run, name, None) for name in names]
    if None in parts or parts[3:] != [0, 0] or not _TAKES_NINE:
        return run, (function,), metadata
    launch, cooperative_grid, pdl, _, _ = parts
    return launch, (function, cooperative_grid, pdl, None, None), metadata


def _profiled() -> bool:
    """Whether a profiler has registered launch hooks with Triton."""
    hooks = knobs.runtime
    return bool(hooks.launch_enter_hook.calls or hooks.launch_exit_hook.calls)


def project_and_gate(
    x: Tensor,
    weight_a: Tensor,
    gating: Tensor | None,
    blocks: int,
    scaling: float,
    router_input: str,
    shared_rank: int = 0,
    shared_scaling: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """See `torch_kernels.project_and_gate`."""
    tokens, in_features = x.shape
    a_rows = weight_a.shape[0]
    rank = a_rows - shared_rank
    routed, per_gate, hidden, given = _routing(gating, router_input, tokens, blocks)
    low = x.new_empty(tokens, a_rows + routed if hidden else a_rows)
    u = x.new_empty(tokens, blocks * rank + shared_rank)
    # 4 stages of 256 columns: within 10% of the time that cuBLAS takes for A x alone on an H100.
    _launch(
        triton_kernels.project_and_gate_kernel,
        (_cdiv(tokens, _ROWS), 1, 1),
        (x, weight_a.contiguous(), x if gating is None else gating.contiguous(), low, u),
        (tokens, per_gate, float(scaling), float(shared_scaling)),
        _constants((in_features, rank, shared_rank, blocks, routed, hidden, given), rank, shared_rank, blocks, 256),
        num_warps=4,
        num_stages=4,
    )
    return low, u


def gate_backward(
    grad_u: Tensor,
    low: Tensor,
    gating: Tensor | None,
    rank: int,
    scaling: float,
    router_input: str,
    shared_rank: int = 0,
    shared_scaling: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `torch_kernels.gate_backward`."""
    tokens, width = grad_u.shape
    blocks = (width - shared_rank) // rank
    routed, per_gate, hidden, given = _routing(gating, router_input, tokens, blocks)
    programs = _cdiv(tokens, _ROWS)
    u, grad_low = torch.empty_like(grad_u), torch.empty_like(low)
    # One partial sum per program, added in a fixed order.
    learned = gating is not None and not hidden and not given
    partial = low.new_empty(programs, routed, rank, dtype=torch.float32) if learned else None
    router_or_any = low if gating is None else gating.contiguous()
    _launch(
        triton_kernels.gate_backward_kernel,
        (programs, 1, 1),
        (grad_u, low, router_or_any, u, grad_low, low if partial is None else partial),
        (tokens, per_gate, float(scaling), float(shared_scaling)),
        _constants((rank, shared_rank, blocks, routed, hidden, given), rank, shared_rank, blocks),
        num_warps=4,
    )
    return u, grad_low, None if partial is None else partial.sum(0)


def accumulate(y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """See `torch_kernels.accumulate`. Its time is that of reading and writing y once; cuBLAS takes a third longer."""
    tokens, width = y.shape
    inner = u.shape[1]
    _launch(
        triton_kernels.accumulate_kernel,
        (_cdiv(tokens, 64), _cdiv(width, 128), 1),
        (y, u, v),
        (tokens,),
        (width, inner, v.stride(0), v.stride(1), 64, 128, min(128, max(16, _pad(inner)))),
        num_warps=4,
    )
    return y


def add_experts_few(
    y: Tensor,
    x: Tensor,
    weight_a: Tensor,
    gating: Tensor | None,
    weight_b: Tensor,
    scaling: float,
    router_input: str,
    shared_rank: int = 0,
    shared_scaling: float = 1.0,
) -> None:
    """y += u B^T in one launch, for few tokens and without gradients: y [T, out], x [T, in].

    u is that of `torch_kernels.project_and_gate`.
    """
    tokens, in_features = x.shape
    out_features = y.shape[1]
    rank = weight_a.shape[0] - shared_rank
    blocks = (weight_b.shape[1] - shared_rank) // rank
    rank_pad, shared_pad, experts_pad = _pad(rank), _pad(shared_rank), _pad(blocks)
    routed, per_gate, hidden, given = _routing(gating, router_input, tokens, blocks)
    tensors = (y, x, weight_a.contiguous(), x if gating is None else gating.contiguous(), weight_b.contiguous())
    scalars = (per_gate, float(scaling), float(shared_scaling))
    sizes = (in_features, out_features, rank, shared_rank, blocks, routed, hidden, given)
    if tokens * out_features <= _VECTOR_OUTPUTS:
        columns = 128  # with more, part of the GPU would be idle
        chunk = max(64, 16384 // max(rank_pad, shared_pad, experts_pad if hidden else 1))
        tile = min(columns, max(8, 16384 // max(rank_pad * experts_pad, shared_pad)))
        _launch(
            triton_few_tokens.add_experts_few_kernel,
            (tokens, _cdiv(out_features, columns), 1),
            tensors,
            scalars,
            (*sizes, rank_pad, shared_pad, experts_pad, chunk, columns, tile),
            num_warps=16,
        )
        return
    rank_pad = max(rank_pad, _cdiv(16, experts_pad))  # tensor cores need at least 16
    shared_pad = max(shared_pad, 16) if shared_rank else shared_pad
    # As large as registers and shared memory allow: each step of the loop over x waits for memory, so use few steps.
    columns = max(16, min(128, 16384 // max(rank_pad * experts_pad, shared_pad)))
    chunk = max(64, min(1024, 8192 // _pad(rank_pad + shared_rank + (experts_pad if hidden else 0))))
    _launch(
        triton_few_tokens.add_experts_some_kernel,
        (_cdiv(tokens, _ROWS), _cdiv(out_features, columns), 1),
        tensors,
        (tokens, *scalars),
        (*sizes, rank_pad, shared_pad, experts_pad, _ROWS, chunk, columns),
        num_warps=4,
        num_stages=3,
    )


def _routing(gating: Tensor | None, router_input: str, tokens: int, blocks: int) -> tuple[int, int, bool, int]:
    """Number of experts with a gate, tokens per given gate, whether the router reads x, and what is given: 0 nothing,
    1 gates, 2 expert indices."""
    if gating is None:
        return 0, 1, False, 0
    if router_input != "given":
        return gating.shape[0], 1, router_input == "hidden", 0
    per_gate = tokens // gating.shape[0]
    return (gating.shape[1], per_gate, False, 1) if gating.dim() == 2 else (blocks, per_gate, False, 2)


def _constants(*sizes: Any) -> tuple[Any, ...]:
    """`_new_constants`, cached because few combinations occur. Dynamo warns of every cached function that it traces."""
    return _new_constants(*sizes) if torch.compiler.is_compiling() else _cached_constants(*sizes)


def _new_constants(sizes: tuple[Any, ...], rank: int, shared_rank: int, blocks: int, *chunk: int) -> tuple[Any, ...]:
    """Sizes, padded sizes, tokens per program, and a chunk."""
    return (*sizes, _pad(rank), _pad(shared_rank), _pad(blocks), _ROWS, *chunk)


_cached_constants = cache(_new_constants)


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _pad(n: int) -> int:
    """The next power of two; 1 for 0."""
    return 1 << max(n - 1, 0).bit_length()
