"""Runs norms, gated activations and rotary positions of a base model as one kernel each during a training.

The kernels are those of the package liger-kernel. Only the modules of the given model change, and all are restored
afterwards. A kernel replaces a module only if it gives the module's own result on a small input, so an architecture
with another formula keeps its own modules.
"""

import copy
import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

_ROTARY = "apply_rotary_pos_emb"  # transformers' name, in each architecture's module


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Functions with the same results as modules of transformers.

    Attributes:
        rms_norm: x [..., d], weight [d], epsilon -> [..., d].
        silu_times: a, b [..., d] -> silu(a) * b.
        rotary: Queries, keys [batch, heads, length, d], cos, sin [batch, length, d] -> rotated queries and keys.
    """

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    silu_times: Callable[[Tensor, Tensor], Tensor]
    rotary: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def has_kernels() -> bool:
    """Whether liger-kernel and Triton are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("liger_kernel", "triton"))


def liger_kernels() -> Kernels:
    """The kernels of liger-kernel."""
    from liger_kernel.ops import LigerRMSNormFunction, LigerRopeFunction, LigerSiLUMulFunction

    return Kernels(
        # Offset 0, rounding as in Llama, and not in place: that could overwrite a gradient that is used elsewhere.
        rms_norm=lambda x, weight, epsilon: LigerRMSNormFunction.apply(x, weight, epsilon, 0.0, "llama", False),
        silu_times=LigerSiLUMulFunction.apply,
        rotary=LigerRopeFunction.apply,
    )


@contextmanager
def fused_modules(model: Any, kernels: Kernels, device: torch.device | None = None) -> Iterator[dict[str, int]]:
    """Let a model's modules use kernels while the context lasts.

    Args:
        model: A causal language model of transformers, possibly with an adapter.
        device: Where the model will run; None if it is there already.

    Yields:
        Number of replaced modules of each kind: `rms_norm`, `silu_times`, `rotary`.
    """
    counts = {"rms_norm": 0, "silu_times": 0, "rotary": 0}
    fits: dict[type, bool] = {}
    weight = model.get_input_embeddings().weight
    example = torch.empty(0, dtype=weight.dtype, device=device or weight.device)
    disabled = model.disable_adapter() if hasattr(model, "peft_config") else nullcontext()
    with ExitStack() as stack, disabled:
        for module in list(model.modules()):
            kind, forward = _candidate(module, kernels)
            if forward is None or "forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks:
                continue
            if type(module) not in fits:
                fits[type(module)] = _same(module, kernels, example)
            if fits[type(module)]:
                module.forward = forward
                stack.callback(_restore, module)
                counts[kind] += 1
        for name in sorted({type(module).__module__ for module in model.modules()}):
            if name.startswith("transformers.models.") and hasattr(sys.modules[name], _ROTARY):
                counts["rotary"] += stack.enter_context(_rotary_of(sys.modules[name], example, kernels))
        restore = stack.pop_all()
    with restore:
        yield counts


def _candidate(module: nn.Module, kernels: Kernels) -> tuple[str, Callable[[Tensor], Tensor] | None]:
    """The kind and the replacement of a module, judged by its name and its submodules; ("", None) if there is none."""
    weight: Any = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if type(module).__name__.endswith("RMSNorm") and isinstance(weight, Tensor) and epsilon is not None:
        return "rms_norm", lambda x: kernels.rms_norm(x, module.weight, epsilon)  # type: ignore[arg-type]
    parts: dict[str, Any] = module._modules
    if {"gate_proj", "up_proj", "down_proj"} <= parts.keys() and all(
        getattr(parts[name], "in_features", None) is not None for name in ("gate_proj", "up_proj", "down_proj")
    ):
        return "silu_times", lambda x: parts["down_proj"](
            kernels.silu_times(parts["gate_proj"](x), parts["up_proj"](x))
        )
    return "", None


@torch.no_grad()
def _same(module: Any, kernels: Kernels, example: Tensor) -> bool:
    """Whether the replacement of a module gives its result on random rows, up to rounding.

    Args:
        example: A tensor with the dtype and device of the module's input.
    """
    if next(module.parameters()).device != example.device:
        module = copy.deepcopy(module).to(example.device)
    forward = _candidate(module, kernels)[1]
    assert forward is not None
    width = module.gate_proj.in_features if hasattr(module, "gate_proj") else module.weight.numel()
    x = torch.randn(1, 5, width, generator=torch.Generator().manual_seed(0)).to(example)
    try:
        expected, found = module(x), forward(x)
    except (RuntimeError, TypeError, ValueError):
        return False
    return _close(found, expected)


def _close(found: Tensor, expected: Tensor) -> bool:
    tolerance = 1e-5 if expected.dtype == torch.float32 else 2e-2
    same_kind = found.dtype == expected.dtype and found.shape == expected.shape
    difference = (found.float() - expected.float()).norm()
    return same_kind and bool(difference <= tolerance * expected.float().norm())


def _restore(module: nn.Module) -> None:
    del module.forward


@contextmanager
def _rotary_of(library: Any, example: Tensor, kernels: Kernels) -> Iterator[int]:
    """Replace the function with which an architecture's attention layers rotate queries and keys, within the context.

    Other models of the library use the same function. So the replacement checks its arguments and calls the original
    for another dtype or device.
    """
    original = getattr(library, _ROTARY)
    device, dtypes = example.device, {example.dtype, torch.bfloat16}

    def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        usual = not args and not kwargs and q.device == device and q.dtype == k.dtype == cos.dtype
        if usual and q.dtype in dtypes and q.dim() == 4 and q.shape[-1] == cos.shape[-1]:
            return kernels.rotary(q, k, cos, sin)
        return original(q, k, cos, sin, *args, **kwargs)

    if not _same_rotary(original, kernels, example):
        yield 0
        return
    setattr(library, _ROTARY, rotary)
    try:
        yield 1
    finally:
        setattr(library, _ROTARY, original)


@torch.no_grad()
def _same_rotary(original: Callable[..., Any], kernels: Kernels, example: Tensor) -> bool:
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 5, heads, 16, generator=draw).to(example).transpose(1, 2) for heads in (4, 2))
    angles = torch.randn(1, 5, 8, generator=draw).repeat(1, 1, 2)
    cos, sin = angles.cos().to(example), angles.sin().to(example)
    try:
        expected = original(q, k, cos, sin)
        found = kernels.rotary(q.clone(), k.clone(), cos, sin)
    except (RuntimeError, TypeError, ValueError):
        return False
    return all(_close(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
