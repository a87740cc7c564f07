"""Drift: do new documents differ from the corpus on which the clusters, and so N, were chosen?

New documents are compared with the nearest mixture of the corpus's own sources and clusters (see
`analysis.clusters.known_groups`). So a larger share of a known source does not count as new. Three signs indicate a new
subject:

- The documents share terms that no mixture of known groups has (`outside`).
- The features keep less of these documents than of the documents of that mixture (`novelty`). A document of a new
  subject also goes to *some* cluster, but the few directions that the features keep do not fit it.
- The documents have words that the corpus does not have, for example in another language.

The shares of the clusters (the mix) are reported, but do not decide. Distances to centres are less informative
(docs/results/features.md).
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.atomic_files import save_json
from analysis.clusters.corpus_model import AssignedBlock
from analysis.clusters.known_groups import N_BINS, KnownGroups, Nearest, explained_bins
from analysis.features.vectoriser import TextStatistics
from analysis.json_files import NUMBER, load_object

REFERENCE = "reference.json"
"""File name of the summary of the corpus, in the folder of a corpus model."""

# The limits were set on six corpora, each held out in turn, and on batches of single known sources
# (docs/results/features.md).
NOVELTY_LIMIT = 0.1
OUTSIDE_LIMIT = 0.08
UNKNOWN_LIMIT = 0.2
"""Limit for the share of unknown words above the largest share among the known sources."""
MIN_DOCUMENTS = 100
"""With fewer documents, a larger part may fall outside known groups by chance, so the limit rises."""
# Probability that documents of the corpus itself are taken for new ones, for any number of documents.
_FALSE_ALARM = 0.01
N_SAMPLE = 10_000
"""Number of new documents whose terms are compared."""
MIX_SHIFT_LIMIT = 0.3


@dataclass(frozen=True)
class AssignmentSummary:
    """A summary of assigned documents, of fixed size, for comparison with other documents.

    Attributes:
        cluster_counts: [n_clusters], number of documents in each cluster.
        explained_shares: shares of the documents with known words in 50 bins of the square root of `explained`.
        n_explained: number of documents behind `explained_shares`.
        mean_squared_distance: mean squared distance of the documents to their centres.
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
        """Read what `save` wrote.

        Raises:
            ValueError: a field is absent or has another kind of value.
        """
        shapes = {
            "cluster_counts": [int],
            "explained_shares": [NUMBER],
            "n_explained": int,
            "mean_squared_distance": NUMBER,
            "statistics": {field.name: int for field in fields(TextStatistics)},
        }
        values = load_object(Path(path), shapes, advice="Write the corpus model again")
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
        novelty: lower bound on the share of new documents that are explained less than those of the nearest mixture of
            known groups (one-sided Kolmogorov-Smirnov distance). None if the features cannot measure it.
        outside: share of their common terms that is in no known group. None if the features cannot measure it.
        outside_terms: terms that contribute most to `outside`.
        like: source -> its share in the nearest mixture.
        mix_shift: share of documents that would have to change cluster to restore the corpus's mix (total variation
            distance).
        distance_ratio: mean squared distance to the centres, new documents / corpus.
        reconsider: whether N should be chosen again, with the new documents included.
    """

    novelty: float | None
    outside: float | None
    outside_terms: tuple[str, ...]
    like: dict[str, float]
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
    """Summarise the corpus itself, as the reference for new documents.

    Features explain the documents they were fitted on better than other documents. So `explained_shares` come from the
    held-out documents, reweighted to the cluster shares of the training documents. Without held-out documents, all
    documents are used, and novelty is overestimated: by a tenth for a thousand documents, by little for ten thousand.
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
    """Counts [n_clusters, N_BINS] of the documents with known words."""
    labels, explained = block.labels[rows], block.explained[rows]
    cell = (labels * N_BINS + explained_bins(explained))[explained > 0]
    return np.bincount(cell, minlength=n_clusters * N_BINS).reshape(n_clusters, N_BINS)


def measure_drift(
    reference: AssignmentSummary,
    new: AssignmentSummary,
    nearest: Nearest | None = None,
    known: KnownGroups | None = None,
) -> Drift:
    """Compare new documents with the corpus, both assigned by the same corpus model.

    Args:
        nearest: the mixture of known groups nearest to the new documents. None compares them with the whole corpus.

    Raises:
        ValueError: one side has no documents, or the numbers of clusters differ.
    """
    if not reference.statistics.n_documents or not new.statistics.n_documents:
        raise ValueError("expected documents on both sides, got none; was the stream read before?")
    if len(reference.cluster_counts) != len(new.cluster_counts):
        clusters = f"{len(reference.cluster_counts)} and {len(new.cluster_counts)}"
        raise ValueError(f"expected summaries of one corpus model, got {clusters} clusters; assign both with the same")
    compared = [reference]
    if nearest is not None and known is not None:
        spreads = [*nearest.explained_shares, known.spread_of_clusters(new.cluster_counts)]
        worth = round(nearest.n_explained)
        compared = [replace(reference, explained_shares=tuple(s.tolist()), n_explained=worth) for s in spreads]
    mix_shift = float(np.abs(_shares(reference.cluster_counts) - _shares(new.cluster_counts)).sum() / 2)
    # A mixture of small groups is uncertain, and a mixture of whole sources or clusters is coarse. So documents are new
    # only if they are new compared with all of these.
    novelty = min((found for one in compared if (found := _novelty(one, new)) is not None), default=None)
    mix = f"the mix of clusters has moved by {mix_shift:.0%}"
    alarm = _outside_alarm(nearest, known.unknown_token_shares if known else {}) or _novelty_alarm(
        novelty, compared[0], new
    )
    return Drift(
        novelty=novelty,
        outside=nearest.outside if nearest else None,
        outside_terms=nearest.terms if nearest else (),
        like=nearest.sources if nearest else {},
        mix_shift=mix_shift,
        unknown_token_share=new.statistics.unknown_token_share,
        reference_unknown_token_share=reference.statistics.unknown_token_share,
        distance_ratio=new.mean_squared_distance / max(reference.mean_squared_distance, 1e-12),
        reconsider=alarm is not None,
        reason=f"Reconsider N: {alarm}; {mix}." if alarm else _no_alarm(novelty, nearest, compared[0], new, mix_shift),
    )


def _shares(counts: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(counts, np.float64)
    return array / max(float(array.sum()), 1.0)


def _novelty(reference: AssignmentSummary, new: AssignmentSummary) -> float | None:
    if not reference.n_explained or not new.n_explained:
        return None
    excess = np.cumsum(np.subtract(new.explained_shares, reference.explained_shares))
    return float(max(excess.max(), 0))


def _chance(reference: AssignmentSummary, new: AssignmentSummary) -> float:
    """The novelty that documents of the corpus itself can reach by chance."""
    return float(np.sqrt(np.log(1 / _FALSE_ALARM) / 2 * (1 / reference.n_explained + 1 / new.n_explained)))


def _outside_alarm(nearest: Nearest | None, unknown_token_shares: Mapping[str, float]) -> str | None:
    """The reason why the terms of the documents indicate new subjects, or None."""
    if nearest is None or not nearest.n_documents:
        return None
    most = max(unknown_token_shares.values(), default=0.0)
    if nearest.unknown_token_share > most + UNKNOWN_LIMIT:
        return (
            f"{nearest.unknown_token_share:.0%} of the words of the new documents are unknown to the corpus, "
            f"at most {most:.0%} of those of its own sources"
        )
    if nearest.outside > OUTSIDE_LIMIT * max(1.0, MIN_DOCUMENTS / nearest.n_documents):
        return (
            f"{nearest.outside:.0%} of what the new documents have in common is in no source and no cluster of the "
            f"corpus (terms: {', '.join(nearest.terms)})"
        )
    return None


def _novelty_alarm(novelty: float | None, reference: AssignmentSummary, new: AssignmentSummary) -> str | None:
    """The reason why low `explained` values indicate new subjects, or None."""
    if novelty is None or novelty <= max(NOVELTY_LIMIT, _chance(reference, new)):
        return None
    return f"at least {novelty:.0%} of the new documents are explained less than the documents they are most like"


def _no_alarm(
    novelty: float | None,
    nearest: Nearest | None,
    reference: AssignmentSummary,
    new: AssignmentSummary,
    mix_shift: float,
) -> str:
    mix = f"the mix of clusters has moved by {mix_shift:.0%}"
    if novelty is None:
        return f"The features cannot show whether these documents are new in kind; {mix}."
    looked_at = nearest.n_documents if nearest else 0
    if looked_at < MIN_DOCUMENTS and _chance(reference, new) > NOVELTY_LIMIT:
        few = f"{new.n_explained} new, {reference.n_explained} of the corpus"
        return f"Too few documents ({few}) to tell whether the new ones are new in kind; {mix}."
    like = ", ".join(f"{source} {share:.0%}" for source, share in list(nearest.sources.items())[:3]) if nearest else ""
    if mix_shift > MIX_SHIFT_LIMIT:
        known = f"are known ({like})" if like else "are those of the corpus"
        return f"N stands: the subjects {known}. But {mix}: consider training on the new mix."
    like = f"most like {like}, " if like else ""
    return f"N stands: the new documents are like the corpus's ({like}novelty {novelty:.0%}); {mix}."
