"""Whether a run packs its documents, and with which attention.

Packing is right only where a document neither sees another one nor feels its place in the row. Attention by bounds, and
positions, promise that; a base model of another kind (with a state that runs along the row, say) breaks it in silence.
So each base model is tried first, on two short documents.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from hydralora.base_model.packed_attention import VARLEN, attention_over_bounds, varlen_refusal
from hydralora.data import collate_packed
from hydralora.evaluation.answer_loss import answer_logits
from hydralora.training.config import TrainingConfig, TrainingError

_FLASH = "flash_attention"  # how transformers' names of flash-attn begin; these understand packed rows themselves


@dataclasses.dataclass(frozen=True)
class Packing:
    """What was decided, for the record: whether rows are packed, the attention within them, and why not."""

    packed: bool
    attention: str | None = None
    reason: str | None = None

    @contextmanager
    def attention_of(self, model: Any) -> Iterator[None]:
        """The attention of packed rows, while the context lasts."""
        over_bounds = self.packed and self.attention == VARLEN
        with attention_over_bounds(_base(model)) if over_bounds else nullcontext():
            yield


def decide_packing(model: Any, peft_config: Any, config: TrainingConfig) -> Packing:
    """Whether to pack the documents of a run.

    Args:
        model: the base model, or a PEFT model.
        peft_config: of the adapter, None for the whole model.
        config: asks for packing, refuses it, or leaves it open.

    Raises:
        TrainingError: packing is asked for, and the method or the base model cannot have it.
    """
    if config.packing is False:
        return Packing(False, reason="switched off")
    method = peft_config or getattr(model, "active_peft_config", None)
    refusal = _refusal_of_method(method)
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
            f"{peft_config.peft_type} puts virtual tokens before each row, which would serve its first document alone"
        )
    return None


def _refusal_of_model(model: Any, decision: Packing, *, autocast: bool) -> str | None:
    """None if a document gives the same logits wherever it lies in a row and whatever lies before it."""
    name = type(_base(model)).__name__
    was_training = model.training
    try:
        alone, packed, after_another = _probe(model.eval(), decision, autocast=autocast)
    except (NotImplementedError, ValueError, TypeError, RuntimeError) as error:
        return f"{name} does not run on packed rows ({type(error).__name__}: {str(error)[:200]})"
    finally:
        model.train(was_training)
    if not torch.equal(packed, after_another):
        return f"in {name} a document sees the one before it in its row"
    tolerance = 0.05 if decision.attention == VARLEN or model.dtype != torch.float32 else 1e-3
    if (packed - alone).norm() > tolerance * alone.norm():
        return f"in {name} a document gives other logits at another place in its row"
    return None


@torch.no_grad()
def _probe(model: Any, decision: Packing, *, autocast: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a document alone, after a document, and after another document as long; float32."""
    device = model.device
    vocabulary = model.config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(0)
    one, another, last = (torch.randint(vocabulary, (n,), generator=draw).numpy() for n in (9, 9, 7))
    disabled = model.disable_adapter() if hasattr(model, "peft_config") else nullcontext()
    logits = []
    with decision.attention_of(model), disabled, torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        for documents in ((last,), (one, last), (another, last)):
            rows = [{"input_ids": tokens, "answer_start": len(tokens)} for tokens in documents]
            rows[-1]["answer_start"] = 1
            batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in collate_packed(rows).items()}
            logits.append(answer_logits(model, batch)[0].float())
    alone, packed, after_another = logits
    return alone, packed, after_another


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
