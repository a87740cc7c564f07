"""Two corpora side by side: the clusters that both have, their sizes in each, and the clusters that only one has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.answer.analysis import Analysis
from analysis.clusters.corpus_model import CorpusModel
from analysis.corpus.document_text import document_text

MIN_OVERLAP = 0.25
"""Two clusters match only if at least this share of their documents belongs to both (Jaccard similarity)."""
KNOWN_QUANTILE = 0.05
"""A model knows a document of the other corpus if the features keep as much of it as of the worst 5% of its own
documents."""
N_TERMS = 6


@dataclass(frozen=True)
class ClusteredCorpus:
    """The facts of a corpus that the comparison needs; the attributes are those of `Analysis`.

    Attributes:
        documents: `prompt` and `completion`; may be a sample of the corpus.
        positions: `cluster` of each document.
        explained: [n_documents], share of each document that its features keep.
        tables: `clusters` (cluster, n_documents, top_terms) of the whole corpus.
    """

    documents: pl.DataFrame
    positions: pl.DataFrame
    model: CorpusModel
    explained: NDArray[np.float32]
    tables: Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class CorpusComparison:
    """How a second corpus differs from a first one.

    Attributes:
        table: a row for each matched pair of clusters, then for those of one corpus alone: `first`, `second` (cluster,
            or null), `n_first`, `share_first`, `n_second`, `share_second` (its documents in its own corpus), `overlap`
            (Jaccard similarity of the pair over the documents of both corpora), `terms`.
        mix_shift: share of the second corpus's documents that would have to change cluster to give the first one's
            shares, by the first one's clusters (total variation distance).
    """

    table: pl.DataFrame
    mix_shift: float

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON-serialisable values."""
        return {"clusters": self.table.to_dicts(), "mix_shift": self.mix_shift}


def compare_corpora(first: Analysis | ClusteredCorpus, second: Analysis | ClusteredCorpus) -> CorpusComparison:
    """Match the clusters of two corpora by the documents of both.

    Each corpus's model assigns those documents of the other that it knows. Pairs of clusters are matched one to one, so
    that the sum of their overlaps is greatest. Documents that the other model does not know count for no pair.
    """
    from scipy.optimize import linear_sum_assignment

    own = [corpus.positions["cluster"].to_numpy() for corpus in (first, second)]
    (by_second, known_by_second), (by_first, known_by_first) = _assigned(second, first), _assigned(first, second)
    n_first, n_second = first.model.n_clusters, second.model.n_clusters
    both = np.zeros((n_first, n_second))
    np.add.at(both, (own[0][known_by_second], by_second[known_by_second]), 1)
    np.add.at(both, (by_first[known_by_first], own[1][known_by_first]), 1)
    in_first = np.bincount(np.append(own[0], by_first[known_by_first]), minlength=n_first)
    in_second = np.bincount(np.append(own[1], by_second[known_by_second]), minlength=n_second)
    overlap = both / np.maximum(in_first[:, None] + in_second - both, 1)
    pairs = [(i, j) for i, j in zip(*linear_sum_assignment(-overlap), strict=True) if overlap[i, j] >= MIN_OVERLAP]
    matched: list[tuple[int | None, int | None]] = [(int(i), int(j)) for i, j in pairs]
    matched += [(i, None) for i in range(n_first) if i not in {i for i, _ in pairs}]
    matched += [(None, j) for j in range(n_second) if j not in {j for _, j in pairs}]
    rows = []
    for i, j in matched:
        sides = [_side(corpus, cluster) for corpus, cluster in ((first, i), (second, j))]
        rows.append(
            {
                "first": i,
                "second": j,
                "n_first": sides[0]["n"],
                "share_first": sides[0]["share"],
                "n_second": sides[1]["n"],
                "share_second": sides[1]["share"],
                "overlap": None if i is None or j is None else float(overlap[i, j]),
                "terms": sides[0 if i is not None else 1]["terms"],
            }
        )
    shares = [np.bincount(labels, minlength=n_first) / max(len(labels), 1) for labels in (own[0], by_first)]
    return CorpusComparison(
        pl.DataFrame(rows, schema_overrides={"first": pl.Int32, "second": pl.Int32, "overlap": pl.Float64}),
        float(np.abs(shares[0] - shares[1]).sum() / 2),
    )


def _assigned(
    model_of: Analysis | ClusteredCorpus, documents_of: Analysis | ClusteredCorpus
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Cluster of each document by another corpus's model, and whether that model knows the document."""
    texts = documents_of.documents.select(text=document_text(model_of.model.text))["text"]
    blocks = list(model_of.model.stream([texts]))
    explained = np.concatenate([block.explained for block in blocks])
    known = (explained >= np.quantile(model_of.explained, KNOWN_QUANTILE)) & (explained > 0)
    return np.concatenate([block.labels for block in blocks]), known


def _side(corpus: Analysis | ClusteredCorpus, cluster: int | None) -> dict[str, Any]:
    if cluster is None:
        return {"n": 0, "share": 0.0, "terms": []}
    clusters = corpus.tables["clusters"]
    row = clusters.row(by_predicate=pl.col("cluster") == cluster, named=True)
    n = row["n_documents"]
    return {"n": n, "share": n / clusters["n_documents"].sum(), "terms": row["top_terms"][:N_TERMS]}
