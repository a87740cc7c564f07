"""Has the stream of documents moved away from the corpus that the clusters, and so N, were chosen on?

Two things are compared with the corpus itself, both from one streaming pass: how the documents spread over the
clusters (the mix), and how much of a document its features keep (`FeatureBlock.explained`). The second is what tells
new subjects: a document of a new subject goes to *some* cluster, often close to its centre, but the few directions that
the features keep were not made for it. Distances to centres and shares of unknown words tell less
(docs/results/features.md).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.atomic_files import load_json, save_json
from analysis.clusters.corpus_model import AssignedBlock
from analysis.features.vectoriser import TextStatistics

REFERENCE = "reference.json"
"""Name, in a corpus model's folder, of the summary of the corpus itself."""

# Of the square root of `explained`: a cosine, on which differences near zero are visible.
N_BINS = 50
# With six corpora held out in turn, no mix with up to 10% of the held-out one reached this, and all with 20% did.
NOVELTY_LIMIT = 0.1
# Chance that documents of the corpus itself pass for new ones, whatever their number.
_FALSE_ALARM = 0.01
MIX_SHIFT_LIMIT = 0.3


@dataclass(frozen=True)
class AssignmentSummary:
    """What is kept of assigned documents, few or many, to compare them with others.

    Attributes:
        cluster_counts: documents of each cluster.
        explained_shares: how the documents with known words spread over 50 bins of the square root of `explained`.
        n_explained: the number of documents that the spread was measured on.
        mean_squared_distance: to the documents' centres.
        statistics: of the texts.
    """

    cluster_counts: tuple[int, ...]
    explained_shares: tuple[float, ...]
    n_explained: int
    mean_squared_distance: float
    statistics: TextStatistics

    def save(self, path: Path) -> None:
        """Write JSON."""
        save_json(Path(path), asdict(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        values = load_json(Path(path))
        return cls(
            tuple(values["cluster_counts"]),
            tuple(values["explained_shares"]),
            values["n_explained"],
            values["mean_squared_distance"],
            TextStatistics(**values["statistics"]),
        )


@dataclass(frozen=True)
class Drift:
    """How new documents differ from the corpus.

    Attributes:
        novelty: the share of the new documents that are explained less than the corpus's, at least (one-sided
            Kolmogorov-Smirnov distance); None where the features cannot tell.
        mix_shift: the share of documents that would have to change their cluster to restore the corpus's mix (total
            variation distance).
        unknown_token_share: of the words of the new documents.
        reference_unknown_token_share: of the words of the corpus.
        distance_ratio: mean squared distance to the centres, new / corpus.
        reconsider: N should be chosen again, with the new documents.
        reason: in words.
    """

    novelty: float | None
    mix_shift: float
    unknown_token_share: float
    reference_unknown_token_share: float
    distance_ratio: float
    reconsider: bool
    reason: str


def summarise(blocks: Iterable[AssignedBlock], n_clusters: int) -> AssignmentSummary:
    """Summarise the documents of `CorpusModel.stream`, block by block."""
    cluster_counts = np.zeros(n_clusters, np.int64)
    explained_counts = np.zeros((n_clusters, N_BINS), np.int64)
    distance, statistics = 0.0, TextStatistics()
    for block in blocks:
        cluster_counts += np.bincount(block.labels, minlength=n_clusters)
        explained_counts += _explained_counts(block, n_clusters)
        distance += float(block.squared_distances.sum())
        statistics += block.statistics
    return AssignmentSummary(
        tuple(cluster_counts.tolist()),
        tuple(_shares(explained_counts.sum(axis=0)).tolist()),
        int(explained_counts.sum()),
        distance / max(statistics.n_documents, 1),
        statistics,
    )


def summarise_corpus(documents: AssignedBlock, is_held_out: NDArray[np.bool_], n_clusters: int) -> AssignmentSummary:
    """Summarise the corpus itself, as what new documents are to be compared with.

    The features explain the documents they were fitted on better than any others, so `explained_shares` are those of
    the held-out documents, weighted to the clusters of the others. Without held-out documents all stand in: then
    novelty is overstated, by a tenth for a thousand documents and by little for ten thousand.
    """
    everything = summarise([documents], n_clusters)
    used = is_held_out if is_held_out.any() else np.ones(len(is_held_out), bool)
    cluster_counts = np.bincount(documents.labels[~is_held_out], minlength=n_clusters)
    counts = _explained_counts(documents, n_clusters, used)
    of_cluster = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return replace(
        everything,
        cluster_counts=tuple(cluster_counts.tolist()),
        explained_shares=tuple(_shares(cluster_counts @ of_cluster).tolist()),
        n_explained=int(counts.sum()),
    )


def _explained_counts(
    block: AssignedBlock, n_clusters: int, rows: NDArray[np.bool_] | slice = slice(None)
) -> NDArray[np.int64]:
    """[n_clusters, N_BINS], only documents with known words."""
    labels, explained = block.labels[rows], np.minimum(block.explained[rows], 1)
    bins = np.minimum(np.sqrt(explained) * N_BINS, N_BINS - 1).astype(np.int64)
    cell = (labels * N_BINS + bins)[explained > 0]
    return np.bincount(cell, minlength=n_clusters * N_BINS).reshape(n_clusters, N_BINS)


def measure_drift(reference: AssignmentSummary, new: AssignmentSummary) -> Drift:
    """Compare new documents with the corpus, both assigned by the same corpus model.

    Raises:
        ValueError: if there is nothing to compare, or the numbers of clusters differ.
    """
    if not reference.statistics.n_documents or not new.statistics.n_documents:
        raise ValueError("expected documents on both sides, got none; was the stream read before?")
    if len(reference.cluster_counts) != len(new.cluster_counts):
        clusters = f"{len(reference.cluster_counts)} and {len(new.cluster_counts)}"
        raise ValueError(f"expected summaries of one corpus model, got {clusters} clusters; assign both with the same")
    mix_shift = float(np.abs(_shares(reference.cluster_counts) - _shares(new.cluster_counts)).sum() / 2)
    novelty = _novelty(reference, new)
    reconsider, reason = _judge(novelty, mix_shift, reference.n_explained, new.n_explained)
    return Drift(
        novelty=novelty,
        mix_shift=mix_shift,
        unknown_token_share=new.statistics.unknown_token_share,
        reference_unknown_token_share=reference.statistics.unknown_token_share,
        distance_ratio=new.mean_squared_distance / max(reference.mean_squared_distance, 1e-12),
        reconsider=reconsider,
        reason=reason,
    )


def _shares(counts: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(counts, np.float64)
    return array / max(float(array.sum()), 1.0)


def _novelty(reference: AssignmentSummary, new: AssignmentSummary) -> float | None:
    if not reference.n_explained or not new.n_explained:
        return None
    excess = np.cumsum(np.subtract(new.explained_shares, reference.explained_shares))
    return float(max(excess.max(), 0))


def _judge(novelty: float | None, mix_shift: float, n_reference: int, n_new: int) -> tuple[bool, str]:
    mix = f"the mix of clusters has moved by {mix_shift:.0%}"
    if novelty is None:
        return False, f"The features do not tell whether these documents are new in kind; {mix}."
    chance = float(np.sqrt(np.log(1 / _FALSE_ALARM) / 2 * (1 / n_reference + 1 / n_new)))
    if novelty > max(NOVELTY_LIMIT, chance):
        return True, (
            f"Reconsider N: at least {novelty:.0%} of the new documents are explained less than the corpus's are; "
            f"{mix}. They bring new subjects, or more of the subjects that the corpus explains least."
        )
    if chance > NOVELTY_LIMIT:
        few = f"{n_new} new, {n_reference} of the corpus"
        return False, f"Too few documents ({few}) to tell whether the new ones are new in kind; {mix}."
    if mix_shift > MIX_SHIFT_LIMIT:
        return False, f"N stands: the subjects are those of the corpus. But {mix}: consider training on the new mix."
    return False, f"N stands: the new documents are like the corpus's (novelty {novelty:.0%}); {mix}."
