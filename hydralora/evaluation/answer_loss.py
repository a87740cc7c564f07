"""Loss on answer tokens, with logits computed only where a loss is read.

A vocabulary of 49,152 makes the output layer a fifth of a 135M model, and half or more of all positions belong to
prompts: their logits would be computed, kept for the backward pass, and never used.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydralora.data import IGNORED


def answer_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that predict answer tokens, one row a token.

    A hook hands only those positions to the output layer; the rest of the model runs as it is, so this works for any
    causal language model of transformers and any PEFT method on it. Virtual tokens of prompt methods come first in the
    hidden states and are skipped.

    Args:
        model: a causal language model, possibly wrapped by PEFT or DistributedDataParallel.
        batch: `input_ids`, `attention_mask`, `labels` [batch, length], `IGNORED` outside of answers, and what else the
            model's forward takes (`expert_gates`).

    Returns:
        logits [n, vocabulary], targets [n], and the row of the batch each belongs to [n].
    """
    targets = batch["labels"][:, 1:]
    keep = targets != IGNORED
    length = batch["labels"].shape[1]

    def select(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0][:, -length:-1] if length > 1 else args[0][:, :0]
        return (hidden[keep], *args[1:])

    inputs = {name: tensor for name, tensor in batch.items() if name not in ("labels", "cluster")}
    handle = _output_layer(model).register_forward_pre_hook(select)
    try:
        logits = model(**inputs, use_cache=False).logits
    finally:
        handle.remove()
    return logits, targets[keep], keep.nonzero()[:, 0]


def answer_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Sum of cross entropies (nats, float32) over the answer tokens of a batch."""
    logits, targets, _ = answer_logits(model, batch)
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def document_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Sum of cross entropies (nats, float32) over the answer tokens of each document [batch]."""
    logits, targets, rows = answer_logits(model, batch)
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return torch.zeros(len(batch["labels"]), device=losses.device).index_add_(0, rows, losses)


def _output_layer(model: nn.Module) -> nn.Module:
    unwrapped: Any = getattr(model, "module", model)
    layer = unwrapped.get_output_embeddings()
    if layer is None:
        raise TypeError(f"Expected a causal language model with an output layer, got {type(unwrapped).__name__}")
    return cast(nn.Module, layer)
