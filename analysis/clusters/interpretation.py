"""Descriptions of clusters: top terms, typical and doubtful documents, and agreement with known labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from analysis.text.blocks import Texts, text_blocks
from analysis.text.terms.stop_words import in_english_list, stop_words
from analysis.text.terms.term_counts import TermCounter

# A document is an outlier if its distance exceeds its cluster's upper quartile by this many interquartile ranges.
OUTLIER_RANGES = 3.0
WIDESPREAD = 0.1


@dataclass(frozen=True)
class LabelAgreement:
    """Agreement of clusters with known labels. 1: the same grouping; 0: chance (for `ari`).

    Attributes:
        nmi: normalised mutual information.
        ari: adjusted Rand index.
    """

    nmi: float
    ari: float


def top_terms(texts: Texts, labels: ArrayLike, n_terms: int = 12) -> pl.DataFrame:
    """The most characteristic words of each cluster, by class-based TF-IDF: columns `cluster, rank, term, weight`.

    The weight of term t in cluster c is its share of the cluster's words times log(1 + A / f_t). A is the mean number
    of words in a cluster, and f_t is the count of t in the corpus. Two kinds of words are excluded: words found in more
    than a tenth of the documents of more than half of the clusters, and stop words found in more than a tenth of the
    documents of any cluster ("and", in any language; see `analysis.text.terms.stop_words`), or in fewer if they are
    English. Where all texts of a cluster follow one pattern, a function word that hardly occurs elsewhere stays.

    Args:
        labels: [n], cluster of each text.

    Raises:
        ValueError: the number of labels differs from the number of texts.

    Source: Grootendorst (2022), BERTopic: Neural topic modeling with a class-based TF-IDF procedure, equation 2.
    """
    clusters = np.asarray(labels, dtype=np.int64)
    terms, counts, documents = _cluster_term_counts(texts, clusters)
    words = counts.sum(axis=1, keepdims=True)
    weights = counts / np.maximum(words, 1) * np.log1p(words.mean() / np.maximum(counts.sum(axis=0), 1))
    shares = documents / np.maximum(np.bincount(clusters, minlength=len(counts)), 1)[:, None]
    widespread = shares > WIDESPREAD
    if len(counts) > 1:
        weights[:, widespread.sum(axis=0) > len(counts) / 2] = 0
    candidates = widespread.any(axis=0) | in_english_list(terms)
    weights[:, candidates & stop_words(texts, terms, clusters, shares)] = 0
    rows = []
    for cluster, row in enumerate(weights):
        best = sorted(np.flatnonzero(row).tolist(), key=lambda term, row=row: (-row[term], terms[term]))  # type: ignore[misc]
        rows += [(cluster, rank, terms[term], float(row[term])) for rank, term in enumerate(best[:n_terms], start=1)]
    schema = {"cluster": pl.Int32, "rank": pl.Int32, "term": pl.String, "weight": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _cluster_term_counts(
    texts: Texts, clusters: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """The terms, their counts [K, n_terms] in each cluster, and their document frequencies [K, n_terms]."""
    counter = TermCounter()
    counts = [counter.learn(block) for block in text_blocks(texts)]
    n_texts = sum(len(block.n_tokens) for block in counts)
    if n_texts != len(clusters):
        raise ValueError(f"labels: expected one for each of {n_texts} texts, got {len(clusters)}")
    shape = (int(clusters.max()) + 1, len(counter.terms))
    occurrences, documents = np.zeros(shape), np.zeros(shape)
    first = 0
    for block in counts:
        n_documents = len(block.n_tokens)
        cluster_of_entry = np.repeat(clusters[first : first + n_documents], np.diff(block.indptr))
        cell = cluster_of_entry * shape[1] + block.indices
        occurrences += np.bincount(cell, block.counts, occurrences.size).reshape(shape)
        documents += np.bincount(cell, minlength=occurrences.size).reshape(shape)
        first += n_documents
    return counter.terms, occurrences, documents


def document_positions(
    X: ArrayLike, centers: ArrayLike, in_tail: NDArray[np.bool_] | None = None, tail_distances: ArrayLike = ()
) -> pl.DataFrame:
    """Position of each document: columns `row, cluster, distance, neighbour, margin, is_outlier`.

    `distance` is the distance to the document's own centre, `neighbour` is the second nearest cluster. `margin` is
    (distance to the neighbour - `distance`) / (distance to the neighbour): 0 on the border, 1 at the centre. An outlier
    is far from its own centre, compared with the other documents of the cluster.

    Args:
        X: [n, d].
        centers: [K, d].
        in_tail: [n], whether a document belongs to the tail (`analysis.clusters.tail`), which is cluster K. Its
            `distance` is that to the nearest small community, and its `neighbour` the nearest centre.
        tail_distances: [number in the tail], these distances.
    """
    rows, points = np.asarray(X, dtype=np.float32), np.asarray(centers, dtype=np.float32)
    squared = np.square(rows).sum(axis=1)[:, None] + np.square(points).sum(axis=1) - 2 * rows @ points.T
    distances = np.sqrt(np.maximum(squared, 0)).astype(np.float64)
    order = np.argsort(distances, axis=1, kind="stable")
    cluster, neighbour = order[:, 0], order[:, min(1, len(points) - 1)]
    own, other = np.take_along_axis(distances, np.stack([cluster, neighbour], axis=1), axis=1).T
    if in_tail is not None:
        neighbour[in_tail], other[in_tail] = cluster[in_tail], own[in_tail]
        cluster[in_tail], own[in_tail] = len(points), tail_distances
    margin = np.ones(len(rows)) if len(points) == 1 else np.maximum(other - own, 0) / np.maximum(other, 1e-12)
    table = pl.DataFrame({"cluster": cluster, "distance": own, "neighbour": neighbour, "margin": margin})
    low, high = (pl.col("distance").quantile(q, "linear").over("cluster") for q in (0.25, 0.75))
    is_outlier = pl.col("distance") > high + OUTLIER_RANGES * (high - low)
    return table.with_columns(is_outlier=is_outlier).with_row_index("row")


def examples(positions: pl.DataFrame, n: int = 5) -> pl.DataFrame:
    """Documents of each cluster to read: columns `cluster, kind, rank` and those of `document_positions`.

    Kinds: `representative` (nearest to the centre), `borderline` (almost as near to the neighbouring cluster) and
        `outlier` (the outliers that are farthest from the centre).
    """
    kinds = {
        "representative": positions.sort("distance", "row"),
        "borderline": positions.sort("margin", "row"),
        "outlier": positions.filter("is_outlier").sort("distance", "row", descending=[True, False]),
    }
    tables = [
        table.group_by("cluster", maintain_order=True)
        .head(n)
        .with_columns(kind=pl.lit(kind), rank=(pl.int_range(pl.len()) + 1).over("cluster"))
        for kind, table in kinds.items()
    ]
    columns = ["cluster", "kind", "rank", "row", "distance", "neighbour", "margin"]
    return pl.concat(tables).select(columns).sort("cluster", pl.col("kind").cast(pl.Enum(list(kinds))), "rank")


def cross_table(labels: ArrayLike, groups: pl.Series | Sequence[str]) -> pl.DataFrame:
    """Contingency table: `cluster, group, documents, share_of_cluster, share_of_group`; empty cells have no row."""
    table = pl.DataFrame({"cluster": np.asarray(labels), "group": groups}).group_by("cluster", "group")
    counts = table.len("documents").sort("cluster", "documents", "group", descending=[False, True, False])
    shares = {f"share_of_{of}": pl.col("documents") / pl.col("documents").sum().over(of) for of in ("cluster", "group")}
    return counts.with_columns(**shares)


def agreement(labels: ArrayLike, groups: pl.Series | Sequence[str]) -> LabelAgreement:
    """NMI and ARI between clusters and known labels; documents with a null label are ignored."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    table = pl.DataFrame({"cluster": np.asarray(labels), "group": groups}).drop_nulls()
    cluster, group = table["cluster"].to_numpy(), table["group"].rank("dense").to_numpy()
    return LabelAgreement(
        nmi=float(normalized_mutual_info_score(group, cluster)), ari=float(adjusted_rand_score(group, cluster))
    )
