"""One base model for several trainings of a process: loaded once, lent, and taken back when it is as it was."""

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from hydralora.base_model.loading import load_base_model
from hydralora.base_model.unchanged import Witness

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class _Lent:
    model: Any
    tokenizer: Any
    witness: Witness
    structure: list[Any]


_idle: dict[str, _Lent] = {}
_lock = threading.Lock()


@contextmanager
def borrowed_base_model(**arguments: Any) -> Iterator[tuple["PreTrainedModel", "PreTrainedTokenizerBase"]]:
    """A base model and its tokenizer, from the last borrower where that is possible, else loaded.

    Adapters are taken off when the context ends, so that a model with one is of no use after it. A base model that is
    then not as it was loaded (trained whole, hooks left on it, layers replaced) is dropped, and the next borrower loads
    anew. At most one model waits for a borrower.

    Args:
        arguments: of `load_base_model`.
    """
    lent = _take(arguments)
    uses_cache = getattr(lent.model.config, "use_cache", None)
    yield lent.model, lent.tokenizer
    take_off_adapters(lent.model)
    if uses_cache is not None:
        lent.model.config.use_cache = uses_cache  # transformers' Trainer switches it off
    if _structure(lent.model) == lent.structure and lent.witness.saw_a_change(lent.model) is False:
        with _lock:
            _idle[_key(arguments)] = lent


def taken_base_model(**arguments: Any) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """As `borrowed_base_model`, to keep: the next borrower loads another one."""
    lent = _take(arguments)
    return lent.model, lent.tokenizer


def _take(arguments: dict[str, Any]) -> _Lent:
    """The model that waits if it is this one; one that is not would hold its memory for nothing."""
    with _lock:
        lent = _idle.pop(_key(arguments), None)
        _idle.clear()
    if lent is None:
        model, tokenizer = load_base_model(**arguments)
        lent = _Lent(model, tokenizer, Witness.of(model), _structure(model))
    return lent


def _key(arguments: dict[str, Any]) -> str:
    return repr(sorted(arguments.items()))


def take_off_adapters(model: Any) -> None:
    """Put the layers of a base model back in the place of PEFT's; freeze it, in evaluation mode, as it was loaded."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            original = module.get_base_layer()
        elif isinstance(module, AuxiliaryTrainingWrapper):
            original = module.original_module
        else:
            continue
        parent, _, child = name.rpartition(".")
        if _is_in(model, name):
            setattr(model.get_submodule(parent), child, original)
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    model.eval()


def _is_in(model: nn.Module, name: str) -> bool:
    """Whether a layer is still there: one inside a layer taken off before is not."""
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def _structure(model: Any) -> list[Any]:
    """All that a training could leave behind beside weights."""
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
