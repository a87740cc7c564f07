"""A whole adapted layer as one autograd function: as few passes over [tokens, out_features] as the sum allows.

Against the layer written out in autograd: the experts accumulate into the base layer's output (no second output-sized
tensor, no pass to scale or add), only x and A x are saved, gates and their products are computed again in backward, and
the two parts of x's gradient accumulate in one tensor. The base layer is frozen: its weight gets no gradient.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module

from hydralora.ops import torch_kernels as small

try:
    from hydralora.ops import triton_launch as triton_pieces
except ImportError:  # no Triton on this platform; the plain pieces give the same results
    triton_pieces = None  # type: ignore[assignment]


_PLAIN_TENSORS = (nn.Parameter, Tensor)  # not DTensor, not a quantised tensor


def is_hooked(module: nn.Module) -> bool:
    """Whether calling a module does more than its class's `forward`: hooks of any kind, or a `forward` of its own."""
    attributes = module.__dict__  # read once: this stands before each launch
    return bool(
        attributes["_forward_hooks"]
        or attributes["_forward_pre_hooks"]
        or attributes["_backward_hooks"]
        or attributes["_backward_pre_hooks"]
        or "forward" in attributes  # as accelerate sets, to move weights between devices
    )


def _must_see_modules() -> bool:
    """Whether something outside follows each operation: global hooks, torch.func, forward-mode gradients, tracing."""
    if (
        nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
        or nn_module._global_backward_hooks
        or nn_module._global_backward_pre_hooks
    ):
        return True
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return bool(
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )


def can_fuse(x: Tensor, base: nn.Module, *adapter: nn.Module) -> bool:
    """Whether `hydra_linear` computes what calling these modules would: nothing trainable, hooked or replaced in the
    base, nothing hooked in the adapter's A, B and router, and one dtype for all matrix products."""
    if type(base) is not nn.Linear or type(x) not in _PLAIN_TENSORS or _must_see_modules():
        return False  # quantised, transposed, distributed, or watched
    parameters: Any = base._parameters
    dtype = x.dtype  # the dictionary: nn.Module's `__getattr__` is slow
    weight, bias = parameters["weight"], parameters["bias"]
    if type(weight) not in _PLAIN_TENSORS or weight.requires_grad or (bias is not None and bias.requires_grad):
        return False
    autocast = torch.is_autocast_enabled(x.device.type)
    if autocast and dtype == torch.float64:  # which autocast leaves alone
        return False
    for module in (base, *adapter):
        if type(module) is not nn.Linear:  # wrapped, for instance by FSDP
            return False
        if is_hooked(module):
            return False
        parameters = module._parameters
        if not autocast and parameters["weight"].dtype != dtype:
            return False
    return True


def hydra_linear(
    x: Tensor,
    base_weight: Tensor,
    base_bias: Tensor | None,
    weight_a: Tensor,
    weight_b: Tensor,
    gating: Tensor | None,
    scaling: float,
    router_input: str = "low_rank",
    shared_rank: int = 0,
    shared_scaling: float = 1.0,
) -> Tensor:
    """y = W0 x + b + scaling * sum_i g_i B_i A x with g = softmax(W_g z) (arXiv 2404.19245, section 3.2), and with a
    shared LoRA + shared_scaling * B_s A_s x.

    The same function as `router_gates` and `add_experts` over the base layer, to rounding. Under autocast all matrix
    products run in autocast's dtype, as PEFT's LoRA does there; gates are float32 (or wider) always.

    Args:
        x: [..., in].
        base_weight: [out, in], frozen. Its gradient is never computed.
        base_bias: [out] or None, frozen.
        weight_a: [r + shared_rank, in], the rows of A_s last.
        weight_b: [out, E * r + shared_rank], column block i is B_i, the columns of B_s last. E = N, or N + 1: block N
            is then always on, with gate 1.
        gating: what gates come from. A router's weights: [N, r], or [N, in] for ``router_input="hidden"``. For "given"
            the gates themselves, constant: [G, N] in float32, each row for as many consecutive tokens (of x's leading
            dimensions flattened; G divides their number), or integers [G], the one expert that is on (-1: none), with
            E = N. None: every gate is 1.
        scaling: lora_alpha / r (or / sqrt(r)).
        router_input: z = A x ("low_rank", without A_s), z = x ("hidden"), or "given".
        shared_rank: rank of A_s and B_s, 0 without a shared LoRA.
        shared_scaling: of the shared LoRA.

    Returns:
        [..., out]. Differentiable once in x, A, B and the router.
    """
    split = (scaling, router_input, shared_rank, shared_scaling)
    if torch.is_grad_enabled():
        is_plain = not (torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling())
        apply = _apply_directly if is_plain else _HydraLinear.apply
        y: Tensor = apply(x, base_weight, base_bias, weight_a, weight_b, gating, split)
        return y
    x = _cast(x, _compute_dtype(x, weight_a))
    rows = _rows(x, x.dtype)
    y = _base(x, rows, base_weight, base_bias)
    pieces = _pieces(rows)
    if pieces is triton_pieces and rows.shape[0] <= triton_pieces.FEW_TOKENS:  # decoding: bound by launches
        triton_pieces.add_experts_few(y.view(-1, y.shape[-1]), rows, weight_a, gating, weight_b, *split)
    else:
        _add_adapter(y, rows, weight_a, weight_b, gating, *split)
    return y


Split = tuple[float, str, int, float]  # scaling, router_input, shared_rank, shared_scaling


class _HydraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base_weight: Tensor,
        base_bias: Tensor | None,
        weight_a: Tensor,
        weight_b: Tensor,
        gating: Tensor | None,
        split: Split,
    ) -> Tensor:
        dtype = _compute_dtype(x, weight_a)
        saved_x = _cast(x, dtype)
        rows = _rows(saved_x, dtype)
        y = _base(saved_x, rows, base_weight, base_bias)
        low = _add_adapter(y, rows, weight_a, weight_b, gating, *split)
        # Low-precision copies of weights are made again in backward: keeping them would cost more memory than LoRA.
        ctx.save_for_backward(saved_x, low, base_weight, weight_a, weight_b, gating)
        ctx.split, ctx.x_dtype = split, x.dtype
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        # What `once_differentiable` would say, without the time it takes in each layer of each step.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError("hydra_linear is differentiable once: call backward without create_graph=True")
        saved_x, low, base_weight, weight_a, weight_b, gating = ctx.saved_tensors
        needs_x, _, _, needs_a, needs_b, needs_router, _ = ctx.needs_input_grad
        dtype = low.dtype
        x, grad = _rows(saved_x, dtype), _rows(grad_y, dtype)
        a_rows = weight_a.shape[0]
        _, router_input, shared_rank, _ = ctx.split

        pieces = _pieces(grad)
        grad_u = torch.mm(grad, _cast(weight_b, dtype))  # [T, E * r + shared_rank]
        router = _gating(gating, dtype, router_input)
        hidden = router_input == "hidden" and router is not None
        u, grad_low, grad_router = pieces.gate_backward(grad_u, low, router, a_rows - shared_rank, *ctx.split)

        grad_b = torch.mm(grad.t(), u) if needs_b else None
        grad_a = None
        if needs_a or (hidden and needs_router):
            grad_a = torch.mm(grad_low.t(), x)
            if hidden:
                grad_a, grad_router = grad_a[:a_rows], grad_a[a_rows:]
        grad_x = None
        if needs_x:
            rows = _cast(weight_a, dtype)
            if hidden and router is not None:
                rows = torch.cat((rows, router))
            grad_x = pieces.accumulate(torch.mm(grad, _cast(base_weight, dtype)), grad_low, rows)
            # `view` with the same sizes, a torch.Size, takes three times as long.
            grad_x = _cast(grad_x.view_as(saved_x), ctx.x_dtype)
        return (
            grad_x,
            None,
            None,
            _as_parameter(grad_a, weight_a),
            _as_parameter(grad_b, weight_b),
            _as_parameter(grad_router, gating),
            None,
        )


# `Function.apply` without its loop over arguments for wrappers of `torch.func`: that loop takes as long as a launch.
_apply_directly = super(torch.autograd.Function, _HydraLinear).apply


def _add_adapter(
    y: Tensor,
    x: Tensor,
    weight_a: Tensor,
    weight_b: Tensor,
    gating: Tensor | None,
    scaling: float,
    router_input: str,
    shared_rank: int,
    shared_scaling: float,
) -> Tensor:
    """Add to y [..., out] what the adapter makes of x [T, in], in x's dtype; returns `low`, which backward needs."""
    dtype = x.dtype
    blocks = (weight_b.shape[1] - shared_rank) // (weight_a.shape[0] - shared_rank)
    router = _gating(gating, dtype, router_input)
    pieces = _pieces(x)
    split = (scaling, router_input, shared_rank, shared_scaling)
    low: Tensor
    low, u = pieces.project_and_gate(x, _cast(weight_a, dtype), router, blocks, *split)
    pieces.accumulate(y.view(-1, y.shape[-1]), u, _cast(weight_b, dtype).t())
    return low


def _gating(gating: Tensor | None, dtype: torch.dtype, router_input: str) -> Tensor | None:
    """In the dtype of the products; gates that are given stay as they are."""
    return gating if gating is None or router_input == "given" else _cast(gating, dtype)


def _base(x: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W0 x + b of x [..., in], which `rows` [T, in] holds too: [..., out], and no view. Autograd would forbid models to
    change a view in place (Llama 4 adds experts to a layer's output so)."""
    weight = _cast(weight, rows.dtype)
    output: Tensor
    if bias is None and x.dim() > 1:
        output = F.linear(x, weight)
    else:
        y = F.linear(rows, weight, None if bias is None else _cast(bias, rows.dtype))
        output = torch.ops.aten._unsafe_view(y, (*x.shape[:-1], y.shape[-1]))
    return output


def _pieces(x: Tensor) -> Any:
    """Triton's small pieces where they apply."""
    if triton_pieces is not None and triton_pieces.supports(x):
        return triton_pieces
    return small


def _compute_dtype(x: Tensor, weight_a: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_a.dtype


def _rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[..., d] -> contiguous rows [T, d]."""
    return _cast(x.reshape(-1, x.shape[-1]), dtype).contiguous()


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)  # looking first is ten times as fast as a `to` that does nothing


def _as_parameter(grad: Tensor | None, parameter: Tensor | None) -> Tensor | None:
    return None if grad is None or parameter is None else _cast(grad, parameter.dtype)
