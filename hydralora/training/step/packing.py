"""Decides whether a run packs its documents, and with which attention.

Packing is correct only if a document does not see another one and does not depend on its place in the row. Attention
within each document and positions that restart ensure that. Other kinds of base models (for example with a state that
runs along the row) would silently be wrong. So each base model is first tried on two short documents.
"""

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from hydralora.adapter.state import in_eval_mode
from hydralora.base_model import default_device
from hydralora.base_model.packed_attention import VARLEN, attention_over_bounds, varlen_refusal
from hydralora.training.config import TrainingConfig, TrainingError
from hydralora.training.step.probe import depends_on, logits_of_last, short_documents, tokens_of

_FLASH = "flash_attention"  # prefix of transformers' names for flash-attn, which supports packed rows itself


@dataclasses.dataclass(frozen=True)
class Packing:
    """The decision on packing, for the record.

    Attributes:
        attention: Name of the attention in packed rows; None if rows are not packed.
        reason: Why rows are not packed; None if they are.
    """

    packed: bool
    attention: str | None = None
    reason: str | None = None

    @contextmanager
    def attention_of(self, model: Any) -> Iterator[None]:
        """Let the model use the attention for packed rows while the context lasts."""
        over_bounds = self.packed and self.attention == VARLEN
        with attention_over_bounds(_base(model)) if over_bounds else nullcontext():
            yield


def decide_packing(model: Any, peft_config: Any, config: TrainingConfig) -> Packing:
    """Decide whether to pack the documents of a run.

    Args:
        peft_config: PEFT config of a new adapter, or None.
        config: Settings of the run; `packing` is True, False or "auto".

    Raises:
        TrainingError: If packing is required, but the method or the base model does not support it.
    """
    if config.packing is False:
        return Packing(False, reason="switched off")
    method = peft_config or getattr(model, "active_peft_config", None)
    refusal = _refusal_of_method(method)
    if refusal is None and config.fsdp and default_device().type == "cuda":
        try:
            model = _small_twin(_base(model), default_device())
        except (NotImplementedError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            refusal = f"no small model of its kind could be tried ({type(error).__name__}: {str(error)[:200]})"
    attention = model.config._attn_implementation
    varlen_is_missing = None if attention.startswith(_FLASH) else varlen_refusal(_base(model), autocast=config.autocast)
    if not attention.startswith(_FLASH) and varlen_is_missing is None:
        attention = VARLEN
    if config.packing == "auto":
        refusal = refusal or varlen_is_missing
    if refusal is None:
        decision = Packing(True, attention)
        refusal = _refusal_of_model(model, decision, autocast=config.autocast)
    if refusal is None:
        return decision
    if config.packing is True:
        raise TrainingError(f"packing: true, but {refusal}. Set packing: auto (or false) to train with padding.")
    return Packing(False, reason=refusal)


def _refusal_of_method(peft_config: Any) -> str | None:
    if getattr(peft_config, "is_prompt_learning", False) or getattr(peft_config, "is_adaption_prompt", False):
        return (
            f"{peft_config.peft_type} puts virtual tokens before each row, so only its first document would have them"
        )
    return None


def _refusal_of_model(model: Any, decision: Packing, *, autocast: bool) -> str | None:
    """Why the base model does not support packing; None if a document's logits do not depend on the rest of the row."""
    name = type(_base(model)).__name__
    try:
        with in_eval_mode(model):
            alone, packed, after_another = _probe(model, decision, autocast=autocast)
            # Rounding may depend on other documents, where the tokens of an expert (MoE) are multiplied together.
            sees = not torch.equal(packed, after_another) and _sees_another(model, decision, autocast=autocast)
    except (NotImplementedError, ValueError, TypeError, RuntimeError) as error:
        return f"{name} does not run on packed rows ({type(error).__name__}: {str(error)[:200]})"
    if sees:
        return f"in {name} a document sees the one before it in its row"
    tolerance = 0.05 if decision.attention == VARLEN or model.dtype != torch.float32 else 1e-3
    difference = torch.maximum((packed - alone).norm(), (packed - after_another).norm())
    if not difference <= tolerance * alone.norm():  # also NaN
        return f"in {name} the logits of a document depend on its place in the row"
    return None


@torch.no_grad()
def _probe(model: Any, decision: Packing, *, autocast: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Logits in float32 of a document alone, after a second document, and after a third one of the same length."""
    one, another, last = short_documents(model)
    with decision.attention_of(model):
        alone, packed, after_another = (
            logits_of_last(model, documents, autocast=autocast) for documents in ([last], [one, last], [another, last])
        )
    return alone, packed, after_another


def _sees_another(model: Any, decision: Packing, *, autocast: bool) -> bool:
    """Whether the logits of a document have a gradient in the tokens before it."""
    one, _, last = short_documents(model)
    with decision.attention_of(model), tokens_of(model) as states:
        logits = logits_of_last(model, [one, last], autocast=autocast)
    return depends_on(logits, states, slice(len(one)))


def _small_twin(base: Any, device: torch.device) -> Any:
    """A model of the same kind on a GPU, with one layer of each type and random weights.

    With fsdp the base model itself is still on the CPU, where a probe of a large model would take minutes.

    Raises:
        ValueError: If the small model lacks a kind of module that the base model has.
    """
    config = copy.deepcopy(base.config)
    text = config.get_text_config()
    kinds = list(dict.fromkeys(getattr(text, "layer_types", None) or [])) or None
    text.num_hidden_layers = len(kinds) if kinds else 2
    if kinds:
        text.layer_types = kinds
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.device(device):
        twin: Any = type(base)._from_config(config, dtype=base.dtype, attn_implementation=config._attn_implementation)
    own = [{type(m) for m in each.modules() if type(m).__module__.startswith("transformers.")} for each in (base, twin)]
    if missing := own[0] - own[1]:
        raise ValueError(f"it has no {', '.join(sorted(kind.__name__ for kind in missing))}")
    return twin


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
