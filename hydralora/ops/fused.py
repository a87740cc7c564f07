"""A whole adapted layer as one autograd function: as few passes over [tokens, out_features] as the sum allows.

Against the layer written out in autograd: the experts accumulate into the base layer's output (no second output-sized
tensor, no pass to scale or add), only x and A x are saved, gates and their products are computed again in backward, and
the two parts of x's gradient accumulate in one tensor. The base layer is frozen: its weight gets no gradient.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hydralora.ops import small

try:
    from hydralora.ops import triton_kernels
except ImportError:  # no Triton on this platform; the plain pieces give the same results
    triton_kernels = None  # type: ignore[assignment]


def can_fuse(x: Tensor, base: nn.Module, *adapter: nn.Module) -> bool:
    """Whether `hydra_linear` computes what calling these modules would: nothing trainable, hooked or replaced in the
    base, nothing hooked in the adapter's A, B and router, and one dtype for all matrix products."""
    if type(base) is not nn.Linear or base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
        return False
    if type(base.weight) not in (nn.Parameter, Tensor) or "forward" in base.__dict__:
        return False
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in (base, *adapter)):
        return False
    if torch.is_autocast_enabled(x.device.type):
        return x.dtype != torch.float64  # which autocast leaves alone
    return all(x.dtype == module.weight.dtype for module in (base, *adapter))


def hydra_linear(
    x: Tensor,
    base_weight: Tensor,
    base_bias: Tensor | None,
    weight_a: Tensor,
    weight_b: Tensor,
    weight_router: Tensor | None,
    scaling: float,
    router_input: str = "low_rank",
) -> Tensor:
    """y = W0 x + b + scaling * sum_i g_i B_i A x with g = softmax(W_g z) (arXiv 2404.19245, section 3.2).

    The same function as `router_gates` and `add_experts` over the base layer, to rounding. Under autocast all matrix
    products run in autocast's dtype, as PEFT's LoRA does there; gates are float32 (or wider) always.

    Args:
        x: [..., in].
        base_weight: [out, in], frozen. Its gradient is never computed.
        base_bias: [out] or None, frozen.
        weight_a: [r, in].
        weight_b: [out, E * r], column block i is B_i. E = N, or N + 1: the last one is then always on, with gate 1.
        weight_router: [N, r], or [N, in] for ``router_input="hidden"``; None: every gate is 1.
        scaling: lora_alpha / r (or / sqrt(r)).
        router_input: z = A x ("low_rank") or z = x ("hidden").

    Returns:
        [..., out]. Differentiable once in x, A, B and the router.
    """
    hidden = router_input == "hidden" and weight_router is not None
    if torch.is_grad_enabled():
        y: Tensor = _HydraLinear.apply(x, base_weight, base_bias, weight_a, weight_b, weight_router, scaling, hidden)
        return y
    rows = _rows(x, _compute_dtype(x, weight_a))
    pieces = _pieces(rows)
    if pieces is triton_kernels and rows.shape[0] <= triton_kernels.FEW_TOKENS:  # decoding: bound by launches
        y = _base(rows, base_weight, base_bias)
        triton_kernels.add_experts_few(y, rows, weight_a, weight_router, weight_b, scaling, hidden)
    else:
        y, _ = _forward(rows, base_weight, base_bias, weight_a, weight_b, weight_router, scaling, hidden)
    return y.view(*x.shape[:-1], y.shape[-1])


class _HydraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base_weight: Tensor,
        base_bias: Tensor | None,
        weight_a: Tensor,
        weight_b: Tensor,
        weight_router: Tensor | None,
        scaling: float,
        hidden: bool,
    ) -> Tensor:
        dtype = _compute_dtype(x, weight_a)
        rows = _rows(x, dtype)
        y, low = _forward(rows, base_weight, base_bias, weight_a, weight_b, weight_router, scaling, hidden)
        # Low-precision copies of weights are made again in backward: keeping them would cost more memory than LoRA.
        saved_x = x if x.dtype == dtype else rows
        ctx.save_for_backward(saved_x, low, base_weight, weight_a, weight_b, weight_router)
        ctx.scaling, ctx.hidden, ctx.x_shape, ctx.x_dtype = scaling, hidden, x.shape, x.dtype
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        saved_x, low, base_weight, weight_a, weight_b, weight_router = ctx.saved_tensors
        dtype = low.dtype
        x, grad = _rows(saved_x, dtype), _rows(grad_y, dtype)
        rank = weight_a.shape[0]

        pieces = _pieces(grad)
        grad_u = grad @ weight_b.to(dtype)  # [T, E * r]
        router = None if weight_router is None else weight_router.to(dtype)
        u, grad_low, grad_router = pieces.gate_backward(grad_u, low, router, rank, ctx.scaling, ctx.hidden)

        grad_b = grad.t() @ u if ctx.needs_input_grad[4] else None
        grad_a = None
        if ctx.needs_input_grad[3] or (ctx.hidden and ctx.needs_input_grad[5]):
            grad_a = grad_low.t() @ x
            if ctx.hidden:
                grad_a, grad_router = grad_a[:rank], grad_a[rank:]
        grad_x = None
        if ctx.needs_input_grad[0]:
            rows = weight_a.to(dtype)
            if router is not None and ctx.hidden:
                rows = torch.cat((rows, router))
            grad_x = pieces.accumulate(grad @ base_weight.to(dtype), grad_low, rows).view(ctx.x_shape).to(ctx.x_dtype)
        return (
            grad_x,
            None,
            None,
            _as_parameter(grad_a, weight_a),
            _as_parameter(grad_b, weight_b),
            _as_parameter(grad_router, weight_router),
            None,
            None,
        )


def _forward(
    x: Tensor,
    base_weight: Tensor,
    base_bias: Tensor | None,
    weight_a: Tensor,
    weight_b: Tensor,
    weight_router: Tensor | None,
    scaling: float,
    hidden: bool,
) -> tuple[Tensor, Tensor]:
    """(y, low) of x [T, in], in x's dtype."""
    dtype = x.dtype
    y = _base(x, base_weight, base_bias)
    blocks = weight_b.shape[1] // weight_a.shape[0]
    router = None if weight_router is None else weight_router.to(dtype)
    pieces = _pieces(x)
    low, u = pieces.project_and_gate(x, weight_a.to(dtype), router, blocks, scaling, hidden)
    return pieces.accumulate(y, u, weight_b.to(dtype).t()), low


def _base(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _pieces(x: Tensor) -> Any:
    """Triton's small pieces where they apply. Under torch.compile Inductor fuses the plain ones itself."""
    if triton_kernels is not None and not torch.compiler.is_compiling() and triton_kernels.supports(x):
        return triton_kernels
    return small


def _compute_dtype(x: Tensor, weight_a: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_a.dtype


def _rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[..., d] -> contiguous rows [T, d]."""
    return x.reshape(-1, x.shape[-1]).to(dtype).contiguous()


def _as_parameter(grad: Tensor | None, parameter: Tensor | None) -> Tensor | None:
    return None if grad is None or parameter is None else grad.to(parameter.dtype)
