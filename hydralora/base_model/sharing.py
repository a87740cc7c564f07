"""Shares one base model between several trainings of a process: it is loaded once and reused while unchanged."""

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from hydralora.base_model.fingerprint import original_attribute, weights_fingerprint
from hydralora.base_model.loading import load_base_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class _Lent:
    model: Any
    tokenizer: Any
    weights: str
    structure: list[Any]


_idle: dict[str, _Lent] = {}
_lock = threading.Lock()


@contextmanager
def borrowed_base_model(**arguments: Any) -> Iterator[tuple["PreTrainedModel", "PreTrainedTokenizerBase"]]:
    """A base model and its tokenizer (see `load_base_model`): reused from the last borrower if possible, else loaded.

    Adapters are removed when the context ends, so do not use an adapted model afterwards. If the base model has changed
    (weights trained, hooks left, layers replaced), it is dropped and the next borrower loads it again. At most one idle
    model is kept.
    """
    lent = _take(arguments)
    uses_cache = getattr(lent.model.config, "use_cache", None)
    yield lent.model, lent.tokenizer
    take_off_adapters(lent.model)
    if uses_cache is not None:
        lent.model.config.use_cache = uses_cache  # transformers' Trainer switches it off
    if _structure(lent.model) == lent.structure and weights_fingerprint(lent.model) == lent.weights:
        with _lock:
            _idle[_key(arguments)] = lent


def taken_base_model(**arguments: Any) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Like `borrowed_base_model`, but the caller keeps the model; the next borrower loads another one."""
    lent = _take(arguments)
    return lent.model, lent.tokenizer


def _take(arguments: dict[str, Any]) -> _Lent:
    """The idle model if it matches, else a newly loaded one. An idle model that does not match is freed."""
    with _lock:
        lent = _idle.pop(_key(arguments), None)
        _idle.clear()
    if lent is None:
        model, tokenizer = load_base_model(**arguments)
        lent = _Lent(model, tokenizer, weights_fingerprint(model), _structure(model))
    return lent


def _key(arguments: dict[str, Any]) -> str:
    return repr(sorted(arguments.items()))


def take_off_adapters(model: Any) -> None:
    """Put a base model's own layers back in place of PEFT's; freeze it and set evaluation mode, as after loading."""
    _put_back(model)
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    model.eval()


def _put_back(parent: nn.Module) -> None:
    for name, child in parent.named_children():
        own: Any = child
        while (attribute := original_attribute(own)) is not None:
            own = getattr(own, attribute)
        if own is not child:
            setattr(parent, name, own)
        _put_back(own)


def _structure(model: Any) -> list[Any]:
    """Everything except weights that a training could change in a model."""
    return [
        (
            name,
            type(module),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._backward_hooks),
            "forward" in module.__dict__,
            getattr(module, "gradient_checkpointing", None),
            module.training,
        )
        for name, module in model.named_modules()
    ] + [model.config.to_dict(), model.config._attn_implementation]
