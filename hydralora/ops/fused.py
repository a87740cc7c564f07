"""A whole adapted layer as one autograd function, with few passes over [tokens, out_features].

Compared with the eager layer: the experts accumulate into the base layer's output (no second tensor of that size, no
pass to scale or add). Only x and A x are saved; backward computes the gates and their products again. The two parts of
x's gradient accumulate in one tensor. The base layer is frozen: its weight gets no gradient.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module

from hydralora.ops import torch_kernels

try:
    from hydralora.ops import triton_launch
except ImportError:  # no Triton on this platform; `torch_kernels` gives the same results
    triton_launch = None  # type: ignore[assignment]


_PLAIN_TENSORS = (nn.Parameter, Tensor)  # not DTensor, not a quantised tensor


def is_hooked(module: nn.Module) -> bool:
    """Whether calling a module does more than its class's `forward`: it has hooks or an instance-level `forward`."""
    attributes = module.__dict__  # read once, because this runs before each launch
    return bool(
        attributes["_forward_hooks"]
        or attributes["_forward_pre_hooks"]
        or attributes["_backward_hooks"]
        or attributes["_backward_pre_hooks"]
        or "forward" in attributes  # accelerate sets it to move weights between devices
    )


def _must_see_modules() -> bool:
    """Whether something must see each module call: global hooks, torch.func, forward-mode gradients, tracing."""
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
    """Whether `hydra_linear` gives the same result as calling these modules.

    The base must not be hooked, replaced, or trained in this pass. The adapter's A, B and router must not be hooked.
    All matrix products must have the same dtype.
    """
    if type(base) is not nn.Linear or type(x) not in _PLAIN_TENSORS or _must_see_modules():
        return False  # quantised, transposed, distributed, or observed
    parameters: Any = base._parameters  # nn.Module's `__getattr__` is slow
    dtype = x.dtype
    weight, bias = parameters.get("weight"), parameters.get("bias")  # FSDP with flat parameters removes them
    if type(weight) not in _PLAIN_TENSORS:
        return False
    is_trainable = weight.requires_grad or (bias is not None and bias.requires_grad)
    if is_trainable and torch.is_grad_enabled():  # FSDP's views of a flat parameter require gradients in any mode
        return False
    autocast = torch.is_autocast_enabled(x.device.type)
    if autocast and dtype == torch.float64:  # autocast does not change float64
        return False
    for module in (base, *adapter):
        if type(module) is not nn.Linear:  # wrapped, for example by FSDP
            return False
        if is_hooked(module):
            return False
        weight = module._parameters.get("weight")
        if weight is None or (not autocast and weight.dtype != dtype):
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
    """y = W0 x + b + scaling * sum_i g_i B_i A x with g = softmax(W_g z) (arXiv 2404.19245, section 3.2).

    A shared LoRA adds shared_scaling * B_s A_s x. Up to rounding, the result equals `router_gates` and `gate_and_scale`
    over the base layer. With autocast all matrix products run in autocast's dtype, as in PEFT's LoRA; gates are always
    float32 or wider.

    Args:
        x: Input [..., in].
        base_weight: Frozen weight [out, in]. Its gradient is never computed.
        base_bias: Frozen bias [out], or None.
        weight_a: Matrix [r + shared_rank, in]; the rows of A_s come last.
        weight_b: Matrix [out, E * r + shared_rank]. Column block i is B_i; the columns of B_s come last. E = N, or
            N + 1 with a shared expert as block N, whose gate is 1.
        gating: The source of the gates. A router's weight: [N, r], or [N, in] for ``router_input="hidden"``. For
            "given", constant gates: [G, N] in float32, or integers [G], the index of the one expert that is on (-1 for
            none; then E = N). x's leading dimensions are flattened to T tokens, and each of the G rows is for T / G
            consecutive tokens. None: every gate is 1.
        scaling: lora_alpha / r (or / sqrt(r)).
        router_input: z = A x ("low_rank", without A_s), z = x ("hidden"), or "given".
        shared_rank: Rank of A_s and B_s; 0 without a shared LoRA.

    Returns:
        Output [..., out], differentiable once in x, A, B and the router.

    Raises:
        RuntimeError: In backward with create_graph=True.
    """
    split = (scaling, router_input, shared_rank, shared_scaling)
    if torch.is_grad_enabled():
        is_plain = not (torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling())
        apply = _apply_directly if is_plain else _HydraLinear.apply
        return apply(x, base_weight, base_bias, weight_a, weight_b, gating, split)
    x = _cast(x, _compute_dtype(x, weight_a))
    rows = _rows(x, x.dtype)
    y = _base(x, rows, base_weight, base_bias)
    kernels = _kernels(rows)
    if kernels is triton_launch and rows.shape[0] <= triton_launch.FEW_TOKENS:  # decoding: launches dominate
        triton_launch.add_experts_few(y.view(-1, y.shape[-1]), rows, weight_a, gating, weight_b, *split)
    else:
        _add_adapter(y, rows, weight_a, weight_b, gating, split)
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
        low = _add_adapter(y, rows, weight_a, weight_b, gating, split)
        # Backward casts the weights to low precision again: keeping the copies would cost more memory than LoRA.
        ctx.save_for_backward(saved_x, low, base_weight, weight_a, weight_b, gating)
        ctx.split, ctx.x_dtype = split, x.dtype
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        # The same check as `once_differentiable`, which would cost time in each layer of each step.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "hydra_linear is differentiable once: call backward without create_graph=True, or make the forward "
                "pass within `hydralora.record_gates(model)`, which takes the path that is differentiable twice"
            )
        saved_x, low, base_weight, weight_a, weight_b, gating = ctx.saved_tensors
        needs_x, _, _, needs_a, needs_b, needs_router, _ = ctx.needs_input_grad
        dtype = low.dtype
        x, grad = _rows(saved_x, dtype), _rows(grad_y, dtype)
        a_rows = weight_a.shape[0]
        _, router_input, shared_rank, _ = ctx.split

        kernels = _kernels(grad)
        grad_u = torch.mm(grad, _cast(weight_b, dtype))  # [T, E * r + shared_rank]
        router = _gating(gating, dtype, router_input)
        hidden = router_input == "hidden" and router is not None
        u, grad_low, grad_router = kernels.gate_backward(grad_u, low, router, a_rows - shared_rank, *ctx.split)

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
            grad_x = kernels.accumulate(torch.mm(grad, _cast(base_weight, dtype)), grad_low, rows)
            # `view` with a torch.Size takes three times as long.
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


# `Function.apply` without its loop that looks for `torch.func` wrappers: that loop takes as long as a launch.
_apply_directly = super(torch.autograd.Function, _HydraLinear).apply


def _add_adapter(
    y: Tensor, x: Tensor, weight_a: Tensor, weight_b: Tensor, gating: Tensor | None, split: Split
) -> Tensor:
    """Add the adapter's update for x [T, in] to y [..., out], in x's dtype; returns `low`, which backward needs."""
    dtype = x.dtype
    _, router_input, shared_rank, _ = split
    blocks = (weight_b.shape[1] - shared_rank) // (weight_a.shape[0] - shared_rank)
    router = _gating(gating, dtype, router_input)
    kernels = _kernels(x)
    low, u = kernels.project_and_gate(x, _cast(weight_a, dtype), router, blocks, *split)
    kernels.accumulate(y.view(-1, y.shape[-1]), u, _cast(weight_b, dtype).t())
    return low


def _gating(gating: Tensor | None, dtype: torch.dtype, router_input: str) -> Tensor | None:
    """The gating in the dtype of the matrix products; given gates are not cast."""
    return gating if gating is None or router_input == "given" else _cast(gating, dtype)


def _base(x: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W0 x + b [..., out], which is not a view. `rows` [T, in] is x [..., in] with flattened tokens.

    Autograd does not let models change such a view in place, and Llama 4 adds experts to a layer's output in place.
    """
    weight = _cast(weight, rows.dtype)
    if bias is None and x.dim() > 1:
        return F.linear(x, weight)
    y = F.linear(rows, weight, None if bias is None else _cast(bias, rows.dtype))
    return torch.ops.aten._unsafe_view(y, (*x.shape[:-1], y.shape[-1]))


def _kernels(x: Tensor) -> Any:
    """The Triton kernels if they support x, else the PyTorch ones."""
    if triton_launch is not None and triton_launch.supports(x):
        return triton_launch
    return torch_kernels


def _compute_dtype(x: Tensor, weight_a: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_a.dtype


def _rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[..., d] -> contiguous rows [T, d]."""
    return _cast(x.reshape(-1, x.shape[-1]), dtype).contiguous()


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)  # the check is ten times as fast as a `to` without effect


def _as_parameter(grad: Tensor | None, parameter: Tensor | None) -> Tensor | None:
    return None if grad is None or parameter is None else _cast(grad, parameter.dtype)
