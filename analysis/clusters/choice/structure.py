"""Does a corpus have parts at all? Real parts show in any half of the vocabulary.

The vocabulary is split in two. The documents are clustered by the words of one half, and the words of the other half
judge these clusters. Words that separate documents only by chance (shuffled texts, or the few words in which the
questions of one template differ) say nothing about the other half. A subject or a task has words in both halves.
"""

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64, Int32
from numpy.typing import NDArray

from analysis.clusters.kmeans import Features, sweep_kmeans
from analysis.features.lsa import leading_directions
from analysis.text.blocks import Texts, as_binary
from analysis.text.terms.tfidf import Tfidf

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# The minimum of `shared` for 4 and for 8 clusters. 4 clusters detect few parts, but leave too much of many parts
# unexplained. Set on development corpora (docs/results/selection.md).
MIN_SHARED = {4: 0.15, 8: 0.205}
N_COMPONENTS = 32
SAMPLE_SIZE = 2048
# Set on development corpora (docs/results/selection.md). With fewer words, texts come from a few templates, whose
# variants look like parts.
MIN_DOCUMENTS, MIN_WORDS = 128, 200
# Of `probability_of_one`; fitted and checked by benchmarks/corpus/select_n_probability.py.
SLOPE = 5.0


@dataclass(frozen=True)
class StructureEvidence:
    """The evidence that a corpus has one part or several.

    Attributes:
        n_clusters: the key of `MIN_SHARED` that gives the strongest evidence for structure.
        explained: share of the variation in one half of the vocabulary that is explained by the clusters found there.
        shared: share of the variation in the other half that the same clusters explain beyond chance; 0 is chance.
        n_documents: number of documents looked at, at most `SAMPLE_SIZE`.
        n_words: number of different words that occur in at least two of these documents.
    """

    n_clusters: int
    explained: float
    shared: float
    n_documents: int
    n_words: int

    @property
    def structure(self) -> bool:
        """Whether the corpus has clusters: `strength` is at least 1."""
        return self.strength >= 1

    @property
    def strength(self) -> float:
        """`shared` as a multiple of its minimum in `MIN_SHARED`."""
        return self.shared / MIN_SHARED[self.n_clusters]

    @property
    def probability_of_one(self) -> float:
        """Probability that the corpus is one part, if 24% of all corpora are: then both are equally likely where the
        answer changes, at strength 1. Logistic in `strength`; below 1/2 exactly if there is structure."""
        return 1 / (1 + math.exp(min(SLOPE * (self.strength - 1), 700.0)))

    @property
    def too_small(self) -> str:
        """The numbers that are too small to distinguish one part from several, in words; empty if none is too small."""
        if self.n_documents < MIN_DOCUMENTS:
            return f"{self.n_documents} of at least {MIN_DOCUMENTS} documents"
        return f"{self.n_words} of at least {MIN_WORDS} different words" if self.n_words < MIN_WORDS else ""


def measure_structure(
    texts: Texts, sample_weight: NDArray[np.float64] | None = None, random_state: int = 0
) -> StructureEvidence:
    """Cluster a sample of texts by each half of the vocabulary, and evaluate the clusters on the other half.

    Args:
        sample_weight: [n], weights of the documents; None means equal weights.
    """
    documents = pa.chunked_array(as_binary(texts))
    rows = _sample(len(documents), random_state)
    weights = np.ones(len(rows)) if sample_weight is None else sample_weight[rows]
    *halves, n_words = vocabulary_halves(documents.take(pa.array(rows)), random_state)
    sweeps = [sweep_kmeans(half, range(1, max(MIN_SHARED) + 1), sample_weight=weights) for half in halves]
    candidates = []
    for n_clusters in MIN_SHARED:
        labels = [sweep.labels[min(n_clusters, len(sweep.labels)) - 1] for sweep in sweeps]
        explained = [explained_by(half, own, weights) for half, own in zip(halves, labels, strict=True)]
        shared = [explained_by(half, other, weights) for half, other in zip(halves, labels[::-1], strict=True)]
        means = float(np.mean(explained)), float(np.mean(shared))
        candidates.append(StructureEvidence(n_clusters, *means, len(rows), n_words))
    return max(candidates, key=lambda evidence: evidence.strength)


def vocabulary_halves(texts: Texts, random_state: int = 0) -> tuple[Features, Features, int]:
    """LSA matrices [n, N_COMPONENTS] of documents by disjoint halves of the vocabulary, and the number of its words."""
    tfidf = Tfidf()
    try:
        matrix = tfidf.fit_transform(texts)
    except ValueError:  # no text has a word
        return *((np.zeros((len(texts), 1), np.float32),) * 2), 0
    side = np.array([zlib.crc32(term.encode()) & 1 for term in tfidf.vocabulary_])
    first, second = (_lsa(matrix[:, side == half], random_state) for half in (0, 1))
    return first, second, len(tfidf.vocabulary_)


def explained_by(
    X: Float32[np.ndarray, "n d"], labels: Int32[np.ndarray, " n"], weights: Float64[np.ndarray, " n"]
) -> float:
    """Share of the variance of X that the groups of `labels` explain, scaled so that as many random groups explain
    0."""
    groups, members = np.unique(labels, return_inverse=True)
    centered = X - np.average(X, axis=0, weights=weights)
    total = float(weights @ np.square(centered).sum(axis=1))
    if total <= 0 or len(groups) == 1 or len(X) <= len(groups):
        return 0.0
    sums = np.zeros((len(groups), X.shape[1]))
    np.add.at(sums, members, weights[:, None] * centered)
    between = float((np.square(sums).sum(axis=1) / np.bincount(members, weights)).sum())
    return 1 - (1 - between / total) * (len(X) - 1) / (len(X) - len(groups))


def _sample(n_rows: int, random_state: int) -> NDArray[np.int64]:
    if n_rows <= SAMPLE_SIZE:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(random_state).choice(n_rows, SAMPLE_SIZE, replace=False))


def _lsa(matrix: "csr_array", random_state: int) -> Features:
    """LSA rows of L2 norm one; zero rows stay zero."""
    from sklearn.preprocessing import normalize

    if not matrix.shape[1]:
        return np.zeros((matrix.shape[0], 1), np.float32)
    matrix = normalize(matrix)
    rows = matrix @ leading_directions(matrix, N_COMPONENTS, random_state).T
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)
