"""Held-out answer loss of documents, by source and cluster, with bootstrap intervals."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from hydralora.adapter.state import in_eval_mode
from hydralora.base_model import remembered_lower_layers
from hydralora.data import TokenisedDocuments, collate
from hydralora.evaluation.answer_loss import document_losses

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_INTERVAL = (0.025, 0.975)


@dataclasses.dataclass(frozen=True)
class DocumentLosses:
    """Answer losses of documents.

    `paired_bootstrap` compares two methods on the same documents.

    Attributes:
        loss_sums: Sum of the answer loss of each document in nats, [documents].
        token_counts: Number of answer tokens of each document, [documents].
        clusters: Cluster of each document, or None.
    """

    loss_sums: Floats
    token_counts: Ints
    sources: tuple[str, ...]
    clusters: tuple[int, ...] | None = None

    @property
    def mean(self) -> float:
        """Mean loss of an answer token."""
        return float(self.loss_sums.sum() / self.token_counts.sum())

    def groups(self) -> dict[tuple[str, str], "DocumentLosses"]:
        """`(group_kind, group)` -> its documents, for the kinds `all`, `source` and, if known, `cluster`."""
        groups = {("all", "all"): self}
        groups |= {("source", group): self.take(rows) for group, rows in _rows_by_label(self.sources).items()}
        if self.clusters is not None:
            groups |= {("cluster", group): self.take(rows) for group, rows in _rows_by_label(self.clusters).items()}
        return groups

    def means(self) -> dict[str, float]:
        """Mean loss of an answer token over `all` documents and within each source."""
        return {group: losses.mean for (kind, group), losses in self.groups().items() if kind != "cluster"}

    def take(self, rows: Ints) -> "DocumentLosses":
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
    """Answer losses of documents with a model. Processes started by torchrun share the work, and all get the result.

    Args:
        model: A causal language model, possibly with an adapter. It gets the documents' `expert_gates`, if any.
        batch_tokens: Largest number of tokens in a batch, with padding. A longer document is a batch alone.
    """
    device = next(model.parameters()).device
    lengths = documents.lengths
    sums = torch.zeros(len(documents), dtype=torch.float64, device=device)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    batches = length_batches(lengths, batch_tokens)
    with in_eval_mode(model), remembered_lower_layers(model):
        for start in range(0, len(batches), world):
            # With FSDP each forward pass needs all processes. A process without a batch left repeats the last one.
            indices = batches[min(start + rank, len(batches) - 1)]
            batch = collate(documents.rows(indices), pad_token_id)
            losses = document_losses(model, {name: tensor.to(device) for name, tensor in batch.items()})
            if start + rank < len(batches):
                sums[torch.from_numpy(indices)] = losses.double()
    if world > 1:
        dist.all_reduce(sums)
    return DocumentLosses(
        sums.cpu().numpy(),
        lengths - np.asarray(documents.column("answer_start")),
        tuple(documents.column("source")),
        tuple(documents.column("cluster")) if "cluster" in documents.dataset.column_names else None,
    )


def bootstrap_interval(losses: DocumentLosses, *, num_resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95% confidence interval of the mean token loss in nats (percentile bootstrap over documents).

    It resamples documents, not tokens, because the tokens of an answer are not independent.
    """
    sums, tokens = _resampled((losses.loss_sums, losses.token_counts), num_resamples, seed)
    low, high = np.quantile(sums / tokens, _INTERVAL)
    return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """Mean token loss of a minus that of b on the same documents, in nats.

    Attributes:
        low: Lower end of its confidence interval.
        high: Upper end of its confidence interval.
        share_a_lower: Share of the resamples in which a has the lower loss.
    """

    difference: float
    low: float
    high: float
    share_a_lower: float


def paired_bootstrap(
    a: DocumentLosses, b: DocumentLosses, *, num_resamples: int = 1000, seed: int = 0
) -> PairedDifference:
    """Compare two models on the same documents: each resample draws the same documents for both.

    Raises:
        ValueError: If the losses belong to different documents.
    """
    if a.sources != b.sources or not np.array_equal(a.token_counts, b.token_counts):
        raise ValueError("Expected losses of the same documents in the same order, got different ones")
    sums, tokens = _resampled((a.loss_sums - b.loss_sums, a.token_counts), num_resamples, seed)
    differences = sums / tokens
    low, high = np.quantile(differences, _INTERVAL)
    return PairedDifference(a.mean - b.mean, float(low), float(high), float((differences < 0).mean()))


def length_batches(lengths: Ints, batch_tokens: int) -> list[Ints]:
    """Batches of document indices, the longest documents first; a batch has at most `batch_tokens` with padding, unless
    a single document is longer."""
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, batch_tokens // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches


def _rows_by_label(labels: Sequence[str] | Sequence[int]) -> dict[str, Ints]:
    array = np.asarray(labels)
    return {str(label): np.flatnonzero(array == label) for label in np.unique(array)}


def _resampled(columns: Sequence[Floats | Ints], num_resamples: int, seed: int) -> list[Floats]:
    """Sums of columns over documents drawn with replacement, each [num_resamples]."""
    n = len(columns[0])
    generator = np.random.default_rng(seed)
    sums = np.empty((num_resamples, len(columns)))
    for i in range(num_resamples):
        drawn = generator.integers(n, size=n)
        sums[i] = [column[drawn].sum() for column in columns]
    return list(sums.T)
