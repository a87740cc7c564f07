"""The tail: small tasks with short answers, which share one expert.

An expert learns what most answer tokens of its group are. K-means puts many small tasks with short answers into the
group of a large source, whose tokens then outweigh theirs. The tail takes them out: communities (Louvain) of the graph
of nearest neighbours that hold few of the answer tokens each. All other documents get K-means groups
(docs/results/experts.md).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Int32
from numpy.typing import ArrayLike, NDArray

from analysis.atomic_files import load_array, save_array
from analysis.clusters.kmeans import assign, count_distinct_rows, sweep_kmeans

# The first three are those of the study of experts. With 10 or 25 neighbours its tail was nearly the same.
NEIGHBOURS = 15
SMALL = 0.005
"""Share of the answer tokens below which a community belongs to the tail."""
LEAST_TAIL = 0.05
"""Share of the documents from which the tail gets a group; two of the study's five mixes have less."""
SAMPLE = 10_000
"""With more different rows, communities are found in this many: about as many as in the study, which had 6,000. All
pairs are compared, so time grows faster than their number, and so does the share of the tail (docs/results/experts.md).
"""

# Scripts that write no spaces between words.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
WORDS_AND_SIGNS = rf"[{_UNSPACED}]|[\w--[{_UNSPACED}]]+|[^\w\s]"


def answer_lengths(answers: pl.Series) -> NDArray[np.int64]:
    """Length of each answer [n] in words and signs; in scripts without spaces, in characters.

    On six corpora the tail by these lengths is the tail by a model's tokens (docs/results/experts.md).
    """
    return answers.str.count_matches(WORDS_AND_SIGNS).to_numpy().astype(np.int64)


@dataclass(frozen=True)
class Communities:
    """Communities of similar documents.

    Attributes:
        centers: float32 [n_communities, d], the mean row of each.
        is_small: bool [n_communities], whether it belongs to the tail.
    """

    centers: NDArray[np.float32]
    is_small: NDArray[np.bool_]

    def in_tail(self, rows: ArrayLike) -> NDArray[np.bool_]:
        """Whether the nearest community of each new row [n, d] is small, [n]."""
        return np.asarray(self.is_small[assign(rows, self.centers)[0]], bool)

    def squared_distances(self, rows: ArrayLike) -> NDArray[np.float64]:
        """Squared distance [n] of each row [n, d] to the nearest small community."""
        return assign(rows, self.centers[self.is_small])[1]

    def save(self, folder: Path) -> None:
        """Write `communities.npy` and `is_small.npy` into `folder`."""
        save_array(Path(folder) / "communities.npy", self.centers)
        save_array(Path(folder) / "is_small.npy", self.is_small)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read what `save` wrote; None if nothing was saved there."""
        if not (Path(folder) / "communities.npy").exists():
            return None
        return cls(load_array(Path(folder) / "communities.npy"), load_array(Path(folder) / "is_small.npy"))


def find_communities(
    rows: Float32[np.ndarray, "n d"], tokens: ArrayLike, *, random_state: int = 0
) -> tuple[Communities, NDArray[np.int32]]:
    """The communities of documents, and the number [n] of each document's own.

    The order of the documents has no effect: equal rows are one, and rows are sorted. Of more than `SAMPLE` different
    rows a sample is drawn; the others join the nearest community (on held-out halves of six corpora this rule put 97%
    of the documents into the tail, or beside it, as communities of all documents do).

    Args:
        tokens: [n], length of each answer: tokens, or words (`answer_lengths`).

    Raises:
        ValueError: `tokens` has another length.
    """
    counts = np.asarray(tokens, np.float64)
    if counts.shape != (len(rows),):
        raise ValueError(f"tokens: expected one number for each of {len(rows)} rows, got shape {list(counts.shape)}")
    different, place = np.unique(rows, axis=0, return_inverse=True)
    chosen = np.sort(np.random.default_rng(random_state).permutation(len(different))[:SAMPLE])
    found = communities_in_order(different[chosen], random_state=random_state)
    centers = np.stack([different[chosen][found == number].mean(axis=0) for number in range(found.max() + 1)])
    of_different = assign(different, centers)[0]
    of_different[chosen] = found
    of_row = of_different[place.ravel()]
    return Communities(centers, is_small(of_row, counts, len(centers))), of_row


def small_communities(
    rows: Float32[np.ndarray, "n d"], tokens: ArrayLike, *, random_state: int = 0
) -> Bool[np.ndarray, " n"]:
    """Whether each document belongs to a community of few answer tokens; arguments and errors of `find_communities`."""
    found, of_row = find_communities(rows, tokens, random_state=random_state)
    return np.asarray(found.is_small[of_row], bool)


def communities_in_order(rows: Float32[np.ndarray, "n d"], *, random_state: int = 0) -> Int32[np.ndarray, " n"]:
    """Number of each row's community (Louvain) in the graph of `NEIGHBOURS` nearest neighbours.

    Another order of the rows moves a few of them: on six corpora the tail keeps 98%. `find_communities` sorts them.
    """
    import networkx as nx
    from sklearn.neighbors import kneighbors_graph

    of_row = np.zeros(len(rows), np.int32)
    if len(rows) < 2:
        return of_row
    near = kneighbors_graph(rows, min(NEIGHBOURS, len(rows) - 1))
    graph = nx.from_scipy_sparse_array(near.maximum(near.T))
    for number, members in enumerate(nx.community.louvain_communities(graph, seed=random_state)):
        of_row[list(members)] = number
    return of_row


def is_small(
    of_row: NDArray[np.integer], tokens: ArrayLike, n_communities: int | None = None
) -> Bool[np.ndarray, " communities"]:
    """Whether each community holds less than `SMALL` of the tokens [n].

    Args:
        of_row: [n], number of each document's community.
        n_communities: their number, where some may have no document.
    """
    sums = np.bincount(of_row, np.asarray(tokens, np.float64), n_communities or 0)
    return np.asarray(sums < SMALL * sums.sum(), bool)


def assign_with_tail(
    rows: ArrayLike, centers: ArrayLike, communities: Communities | None
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Cluster [n] of each new row [n, d], and its squared distance [n]: to the nearest of the centres [K, d].

    Rows nearest to a small community get the number K, and their distance is that to the nearest small community.
    """
    labels, squared_distances = assign(rows, centers)
    if communities is not None:
        points = np.asarray(rows, np.float32)
        in_tail = communities.in_tail(points)
        labels[in_tail], squared_distances[in_tail] = (
            len(np.asarray(centers)),
            communities.squared_distances(points[in_tail]),
        )
    return labels, squared_distances


@dataclass(frozen=True)
class TailSplit:
    """A corpus with its tail taken out.

    Attributes:
        communities: of all documents; None if the tail gets no cluster.
        of_row: [n], the community of each document.
        centers: float32 [n_clusters, d], K-means of the documents outside the tail.
        facts: cluster (the number of the tail), n_communities, share_of_documents, share_of_answers.
        reason: a sentence for a person.
    """

    communities: Communities | None
    of_row: NDArray[np.int32]
    centers: NDArray[np.float32]
    facts: dict[str, float]
    reason: str


def split_off_tail(
    rows: Float32[np.ndarray, "n d"],
    tokens: NDArray[np.integer],
    centers: NDArray[np.float32],
    *,
    n_init: int = 4,
    sample_weight: NDArray[np.float64] | None = None,
    random_state: int = 0,
) -> TailSplit:
    """Take the tail out of a corpus, and fit as many clusters as before to the other documents.

    The tail gets no cluster if it is small (`LEAST_TAIL`), or if the corpus is one cluster.

    Args:
        tokens: [n], length of each answer: tokens, or words (`answer_lengths`).
        centers: [n_clusters, d], clusters of all documents.
        n_init, sample_weight, random_state: as for `sweep_kmeans`.

    Raises:
        ValueError: see `find_communities`; or the other documents have fewer different rows than clusters.
    """
    n_clusters, nowhere = len(centers), np.zeros(len(rows), np.int32)
    if n_clusters == 1:
        return TailSplit(None, nowhere, centers, {}, "A corpus of one cluster has no tail.")
    communities, of_row = find_communities(rows, tokens, random_state=random_state)
    in_tail = communities.is_small[of_row]
    documents, answers = float(in_tail.mean()), float(tokens[in_tail].sum() / max(tokens.sum(), 1))
    if documents < LEAST_TAIL:
        reason = (
            f"The tail of small tasks has {documents:.1%} of the documents; below {LEAST_TAIL:.0%} it gets no cluster."
        )
        return TailSplit(None, nowhere, centers, {}, reason)
    others = np.ascontiguousarray(rows[~in_tail])
    if (n_different := count_distinct_rows(others, n_clusters)) < n_clusters:
        raise ValueError(
            f"expected at least {n_clusters} different documents outside the tail, one for each cluster, got "
            f"{n_different}"
        )
    weights = None if sample_weight is None else sample_weight[~in_tail]
    # Each K starts from its neighbours too, so one more K is fitted.
    ks = range(1, min(n_clusters + 1, count_distinct_rows(others, n_clusters + 1)) + 1)
    sweep = sweep_kmeans(others, ks, n_init=n_init, sample_weight=weights, random_state=random_state)
    n_small = int(communities.is_small.sum())
    reason = (
        f"Cluster {n_clusters} is the tail of small tasks: {n_small} communities of similar documents, each with less "
        f"than {SMALL:.1%} of the words of all answers; together {documents:.0%} of the documents and {answers:.1%} of "
        "these words."
    )
    facts = {
        "cluster": n_clusters,
        "n_communities": n_small,
        "share_of_documents": documents,
        "share_of_answers": answers,
    }
    return TailSplit(communities, of_row, sweep.centers[sweep.index(n_clusters)], facts, reason)
