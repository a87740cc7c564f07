"""Attention over documents that are packed into one row, where no document sees another one.

On a GPU torch's `varlen_attn` (flash attention) computes only the attention within documents. A base model that was
loaded with flash-attn keeps it, because transformers passes the same bounds to it. Otherwise transformers makes a
block-diagonal mask from the positions, which is correct but slower.
"""

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

VARLEN = "hydralora_varlen"
_HALF = (torch.bfloat16, torch.float16)


def varlen_refusal(model: Any, *, autocast: bool) -> str | None:
    """Why `varlen_attn` cannot serve a model, or None if it can.

    Args:
        model: A causal language model of transformers.
        autocast: Whether it runs with bfloat16 autocast.
    """
    device = model.device
    if device.type != "cuda":
        return f"attention over bounds needs a CUDA device, and the model is on {device.type}"
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return "attention over bounds needs an NVIDIA GPU of compute capability 8.0 or more"
    if model.dtype not in _HALF and not autocast:
        return f"attention over bounds needs bfloat16 or float16, and the model computes in {model.dtype}"
    if getattr(model.config, "attention_dropout", 0):
        return "attention over bounds has no dropout, and the model's configuration asks for it"
    return None


@contextmanager
def attention_over_bounds(model: Any) -> Iterator[None]:
    """Let a model use `varlen_attn` for packed rows while the context lasts; other batches use sdpa."""
    _register()
    before = model.config._attn_implementation
    model.set_attn_implementation(VARLEN)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def for_attention(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs for a model's attention: a packed batch gets a dummy mask if needed, other batches do not change."""
    inputs = dict(batch)
    if "cu_seq_lens_q" in batch and model.config._attn_implementation == VARLEN:
        # With any 4-dimensional mask transformers does not make its own; attention over bounds does not read it.
        inputs["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=batch["input_ids"].device)
    return inputs


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(VARLEN, _attention)
    AttentionMaskInterface.register(VARLEN, sdpa_mask)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """query [1, heads, T, d], key and value [1, key heads, T, d] -> [1, T, heads, d]. Without bounds it calls sdpa."""
    bounds = options.get("cu_seq_lens_q")
    if bounds is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if unknown or query.shape[0] != 1 or not getattr(module, "is_causal", True):
        raise NotImplementedError(
            f"Expected plain causal attention over one packed row, got {unknown or 'another kind'}"
        )
    window = options.get("sliding_window")
    q, k, v = (_half(tensor.transpose(1, 2)[0]) for tensor in (query, key, value))
    result = _varlen(q, k, v, bounds, options["max_length_q"], scaling, (-1 if window is None else window - 1, 0))
    return result[None].to(value.dtype), None


def _half(tensor: Tensor) -> Tensor:
    """The tensor in half precision, as flash attention needs: rotary positions give float32 under autocast."""
    return tensor if tensor.dtype in _HALF else tensor.to(torch.get_autocast_dtype(tensor.device.type))


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    longest: int,
    scaling: float | None,
    window: tuple[int, int],
) -> Tensor:
    """query [T, heads, d], key and value [T, key heads, d] -> [T, heads, d]."""
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"scale": scaling, "window_size": window}
    if query.shape[1] != key.shape[1] and _has_gqa_option():
        options["enable_gqa"] = True
    result: Any = varlen_attn(query, key, value, bounds, bounds, longest, longest, **options)
    return result


@functools.cache
def _has_gqa_option() -> bool:
    """Whether `varlen_attn` has to be told of grouped queries. torch 2.11 has no such option and does not need it."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters
