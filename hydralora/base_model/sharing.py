"""One base model for several trainings of a process: loaded once, lent, and taken back when it is as it was."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from hydralora.base_model.loading import load_base_model
from hydralora.base_model.unchanged import Witness

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_idle: dict[tuple[tuple[str, Any], ...], tuple[Any, Any, Witness, list[Any]]] = {}
_lock = threading.Lock()


@contextmanager
def borrowed_base_model(**arguments: Any) -> Iterator[tuple["PreTrainedModel", "PreTrainedTokenizerBase"]]:
    """A base model and its tokenizer, from the last borrower where that is possible, else loaded.

    Adapters are taken off when the context ends. A model that is then not as it was loaded (trained whole, hooks left
    on it, layers replaced) is dropped, and the next borrower loads anew. At most one model waits for a borrower.

    Args:
        arguments: of `load_base_model`.
    """
    key = tuple(sorted(arguments.items(), key=lambda item: item[0]))
    with _lock:
        lent = _idle.pop(key, None)
        _idle.clear()  # another one would hold its memory for nothing
    if lent is None:
        model, tokenizer = load_base_model(**arguments)
        lent = (model, tokenizer, Witness.of(model), _structure(model))
    model, tokenizer, witness, structure = lent
    yield model, tokenizer
    take_off_adapters(model)
    if _structure(model) == structure and witness.saw_a_change(model) is False:
        with _lock:
            _idle[key] = lent


def forget_base_models() -> None:
    """Give back the memory of a model that waits for a borrower."""
    with _lock:
        _idle.clear()


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
