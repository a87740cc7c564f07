"""Predictions and labels of one batch, aligned as in the model's own loss."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hydralora.adapter.state import base_of, device_of

IGNORED = -100  # transformers' label for tokens without loss


def labelled_predictions(model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Log-probabilities [n, classes] in float32 of the positions that have a label, and these labels [n].

    Raises:
        ValueError: If the labels are not classes of the model's logits.
    """
    device = device_of(model)
    inputs = {key: value.to(device).contiguous() for key, value in batch.items() if isinstance(value, Tensor)}
    labels = inputs["labels"]
    shift = _known_shift(base_of(model))
    needs_labels = shift is None or makes_decoder_inputs(base_of(model), inputs)
    given = inputs if needs_labels else {key: value for key, value in inputs.items() if key != "labels"}
    output = model(**given, use_cache=False)
    logits = output.logits
    if labels.is_floating_point() or labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"Expected labels that are classes, one for each of the predictions {list(logits.shape[:-1])}, got "
            f"{list(labels.shape)} in {labels.dtype}: the loss of {type(base_of(model)).__name__} is not a cross "
            f"entropy"
        )
    if shift is None:
        shift = _shift_of_loss(logits, labels, output.loss, type(base_of(model)).__name__)
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    kept = labels != IGNORED
    return F.log_softmax(logits[kept].float(), dim=-1), labels[kept]


def _known_shift(base: Any) -> int | None:
    """1 if logits predict the next token, 0 if they predict the token itself; None for other kinds of models."""
    from transformers.models.auto import modeling_auto as auto

    name = type(base).__name__
    if has_decoder(base):
        return 0 if name in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values() else None
    if name in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return 1
    return 0 if name in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values() else None


def has_decoder(base: Any) -> bool:
    """Whether a model has an encoder and a decoder."""
    return bool(getattr(getattr(base, "config", None), "is_encoder_decoder", False))


def makes_decoder_inputs(base: Any, inputs: Mapping[str, Tensor]) -> bool:
    """Whether the model makes the decoder's inputs from labels."""
    return has_decoder(base) and not any(key.startswith("decoder_input") for key in inputs)


def _shift_of_loss(logits: Tensor, labels: Tensor, loss: Tensor | None, name: str) -> int:
    """The shift whose cross entropy is the model's own loss."""
    for shift in (0, 1):
        if loss is None or (shift == 1 and labels.dim() < 2):
            continue
        predicted = logits[:, :-1] if shift else logits
        wanted = labels[:, 1:] if shift else labels
        own = F.cross_entropy(predicted.float().flatten(0, -2), wanted.flatten(), ignore_index=IGNORED)
        if torch.isclose(own, loss.float(), rtol=1e-2, atol=1e-4):
            return shift
    raise ValueError(f"Cannot compare predictions of {name}: its loss is not a cross entropy of its logits and labels")
