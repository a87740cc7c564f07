"""Held-out answer loss of documents, by source and cluster, with bootstrap intervals."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hydralora.answer_loss import document_losses
from hydralora.data import TokenisedDocuments, collate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class DocumentLosses:
    """Summed answer loss (nats) and answer tokens of each document, in the order of the documents.

    Methods evaluated on the same documents are compared document by document: see `paired_bootstrap`.
    """

    loss_sums: Floats
    token_counts: Ints
    sources: tuple[str, ...]
    clusters: tuple[int, ...] | None = None

    @property
    def mean(self) -> float:
        """Mean loss of an answer token."""
        return float(self.loss_sums.sum() / self.token_counts.sum())

    @property
    def perplexity(self) -> float:
        return math.exp(self.mean)

    def by_source(self) -> dict[str, float]:
        """Mean loss of an answer token within each source."""
        return {group: self.of(rows).mean for group, rows in _groups(self.sources).items()}

    def of(self, rows: Ints) -> "DocumentLosses":
        """Some of the documents."""
        return DocumentLosses(
            self.loss_sums[rows],
            self.token_counts[rows],
            tuple(self.sources[row] for row in rows),
            None if self.clusters is None else tuple(self.clusters[row] for row in rows),
        )


@torch.inference_mode()
def evaluate_documents(
    model: nn.Module, documents: TokenisedDocuments, *, pad_token_id: int, batch_tokens: int = 2048
) -> DocumentLosses:
    """Answer losses of documents under a model, longest first so that a batch too large fails at once.

    Args:
        model: a causal language model, possibly with an adapter; documents with `expert_gates` pass them on.
        documents: tokenised as in training.
        pad_token_id: of the tokenizer.
        batch_tokens: most padded tokens of a batch.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    lengths = documents.lengths
    loss_sums = np.zeros(len(documents))
    for indices in length_batches(lengths, batch_tokens):
        batch = collate(documents.rows(indices), pad_token_id)
        losses = document_losses(model, {name: tensor.to(device) for name, tensor in batch.items()})
        loss_sums[indices] = losses.double().cpu().numpy()
    model.train(was_training)
    columns = documents.dataset.column_names
    return DocumentLosses(
        loss_sums,
        lengths - np.asarray(documents.column("answer_start")),
        tuple(documents.column("source")),
        tuple(documents.column("cluster")) if "cluster" in columns else None,
    )


def length_batches(lengths: Ints, batch_tokens: int) -> list[Ints]:
    """Documents sorted by falling length, cut where a batch would exceed `batch_tokens` with padding."""
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, batch_tokens // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches


def _groups(labels: Sequence[str] | Sequence[int]) -> dict[str, Ints]:
    array = np.asarray(labels)
    return {str(label): np.flatnonzero(array == label) for label in np.unique(array)}
