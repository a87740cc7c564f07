"""Small groups of a corpus's documents, described by their terms: the reference for new documents.

A batch of new documents rarely looks like a small copy of the corpus: it often comes from one source or has one
subject. So it is compared with the nearest mixture of known groups, not with the whole corpus. A group is the documents
of one source in one of up to 64 small clusters. Its profile is the mean of its documents' TF-IDF rows. Non-negative
least squares finds the nearest mixture. The remainder, which no mixture can explain, is outside every known group.

Random variation differs from document to document, but a new subject is common to many documents. So the batch is split
into two random halves, and only a remainder that both halves share counts: `outside` is the inner product of the two
remainders divided by the inner product of the two profiles. It is near 0 for documents of known groups, even for few
documents, and 1 if nothing in the batch is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.atomic_files import load_array, save_array, save_json
from analysis.clusters.corpus_model import CorpusModel
from analysis.features.lsa import TfidfLsa
from analysis.json_files import NUMBER, load_object
from analysis.text.blocks import Texts

if TYPE_CHECKING:
    from scipy.sparse import csr_array

GROUPS = "known_groups"
"""Name of the folder that `KnownGroups.save` writes, in the folder of a corpus model."""

# Bins over the square root of `explained`. It is a cosine, so differences near zero stay visible.
N_BINS = 50
MIN_DOCUMENTS = 20
"""Smallest number of documents in a group. The documents of a source in smaller groups form one group."""
MAX_CLUSTERS, MAX_GROUPS = 64, 256
COUNTS = ("explained_counts", "source_counts", "cluster_counts")
OTHER_SOURCES = "other sources"
MAX_PROFILED = 40_000
"""Number of documents used for the profiles; a group does not need many."""
CLUSTERED = 10_000
"""Number of documents that the small clusters are fitted on."""
N_TERMS = 6


@dataclass(frozen=True)
class Nearest:
    """The mixture of known groups that is nearest to new documents, and what it does not explain.

    Attributes:
        outside: share of the documents' common terms that no mixture explains; 0 if they have no known word.
        terms: terms that contribute most to `outside`.
        sources: source -> its share in the mixture, largest first.
        explained_shares: float64 [2, N_BINS], shares of documents in the bins: for this mixture of groups, and for a
            mixture of whole sources in the same proportions.
        n_explained: effective number of corpus documents behind the second row of `explained_shares`.
    """

    outside: float
    terms: tuple[str, ...]
    sources: dict[str, float]
    explained_shares: NDArray[np.float64]
    n_explained: float
    unknown_token_share: float
    n_documents: int


@dataclass(frozen=True)
class KnownGroups:
    """The known groups of a corpus.

    Attributes:
        sources: [n_groups], source of each group. Several small sources together are `other sources`.
        profiles: float32 [n_groups, n_terms], mean TF-IDF row of each group.
        explained_counts: int64 [n_groups, N_BINS], held-out documents by the square root of `explained`. A group with
            too few held-out documents has the counts of its source.
        source_counts: int64 [n_groups, N_BINS], held-out documents of the group's source.
        cluster_counts: int64 [n_clusters, N_BINS], held-out documents of each cluster of the corpus model.
        unknown_token_shares: source -> share of unknown words in its held-out documents.
    """

    sources: tuple[str, ...]
    profiles: NDArray[np.float32]
    explained_counts: NDArray[np.int64]
    source_counts: NDArray[np.int64]
    cluster_counts: NDArray[np.int64]
    unknown_token_shares: dict[str, float]

    def nearest(self, features: TfidfLsa, texts: Texts, random_state: int = 0) -> Nearest:
        """The mixture of groups that is nearest to the documents; pass a sample if there are many."""
        rows, n_tokens, n_known = features.term_rows(texts)
        order = np.random.default_rng(random_state).permutation(len(n_tokens))
        first, second = (
            np.asarray(rows[np.sort(order[side::2])].sum(axis=0)).ravel() / max(len(order[side::2]), 1)
            for side in (0, 1)
        )
        weights = nearest_mixture(self.profiles, (first + second) / 2)
        left_over = [half - weights @ self.profiles for half in (first, second)]
        common = float(first @ second)
        in_both = np.minimum(*left_over)
        places = np.argsort(-in_both, kind="stable")[:N_TERMS]
        shares = weights / weights.sum() if weights.sum() > 0 else np.full(len(weights), 1 / len(weights))
        of_group, of_source = (shares @ _spreads(counts) for counts in (self.explained_counts, self.source_counts))
        sources = _added_up(self.sources, shares)
        return Nearest(
            outside=max(float(left_over[0] @ left_over[1]) / common, 0.0) if common > 0 else 0.0,
            terms=tuple(features.vocabulary_[i] for i in places if in_both[i] > 0),
            sources={name: share for name, share in sources.items() if share >= 0.01},
            explained_shares=np.stack([of_group, of_source]),
            n_explained=self._worth(sources),
            unknown_token_share=1 - float(n_known.sum()) / max(float(n_tokens.sum()), 1.0),
            n_documents=len(n_tokens),
        )

    def spread_of_clusters(self, cluster_counts: Sequence[int]) -> NDArray[np.float64]:
        """Shares [N_BINS] of documents in the bins, for documents with these cluster proportions."""
        counts = np.asarray(cluster_counts, np.float64)
        return np.asarray(counts / max(counts.sum(), 1) @ _spreads(self.cluster_counts), np.float64)

    def _worth(self, shares: Mapping[str, float]) -> float:
        """Effective sample size of a mixture: the number of documents whose mean has the same variance."""
        sizes = dict(zip(self.sources, self.source_counts.sum(axis=1).tolist(), strict=True))
        if not all(sizes[name] for name, share in shares.items() if share > 0):
            return 0.0
        return float(1 / sum(share**2 / sizes[name] for name, share in shares.items() if share > 0))

    def save(self, folder: Path) -> None:
        """Write `groups.json`, `profiles.npy` (float16) and three tables of counts into `folder`."""
        save_array(Path(folder) / "profiles.npy", self.profiles.astype(np.float16))
        for name in COUNTS:
            save_array(Path(folder) / f"{name}.npy", getattr(self, name))
        values = {"sources": self.sources, "unknown_token_shares": self.unknown_token_shares}
        save_json(Path(folder) / "groups.json", values)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: the groups are missing, a field is absent or has another kind of value, or the shapes of the
                files do not match.
        """
        if not (Path(folder) / "groups.json").exists():
            raise ValueError(
                f"expected the groups of the corpus in {folder}, found none: an older version wrote this corpus model; "
                "run the job `corpus` again"
            )
        shapes = {"sources": [str], "unknown_token_shares": {str: NUMBER}}
        values = load_object(Path(folder) / "groups.json", shapes, advice="Write the corpus model again")
        sources = tuple(values["sources"])
        profiles = load_array(Path(folder) / "profiles.npy").astype(np.float32)
        counts = {name: load_array(Path(folder) / f"{name}.npy") for name in COUNTS}
        groups, bins = len(sources), {array.shape[-1] for array in counts.values()}
        if {len(profiles), len(counts["explained_counts"]), len(counts["source_counts"])} != {groups} or bins != {
            N_BINS
        }:
            shapes = {"profiles": list(profiles.shape)} | {name: list(array.shape) for name, array in counts.items()}
            raise ValueError(
                f"expected {groups} groups and {N_BINS} bins in {folder}, got {shapes}; run the job `corpus` again"
            )
        return cls(sources, profiles, **counts, unknown_token_shares=values["unknown_token_shares"])


def describe_groups(
    model: CorpusModel,
    texts: pl.Series,
    sources: pl.Series,
    labels: NDArray[np.int32],
    explained: NDArray[np.float32],
    is_held_out: NDArray[np.bool_],
    random_state: int = 0,
) -> KnownGroups | None:
    """Find the known groups of a corpus; None if the features of the model have no terms.

    Args:
        texts: [n], documents.
        sources: [n], source of each document.
        labels: [n], cluster of each document.
        explained: [n], as in `FeatureBlock`.
        is_held_out: [n], True for documents that the features were not fitted on.
        random_state: seed for sampling documents if there are many.
    """
    if not isinstance(model.features, TfidfLsa):
        return None
    rows = np.sort(np.random.default_rng(random_state).permutation(len(texts))[:MAX_PROFILED])
    texts, sources = texts.gather(rows), sources.cast(pl.String).gather(rows)
    names, groups = _groups(sources, _small_clusters(model.features.transform(texts)))
    terms, n_tokens, n_known = model.features.term_rows(texts)
    share = pl.DataFrame({"source": sources, "new": is_held_out[rows], "n": n_tokens, "known": n_known})
    share = share.filter(pl.col("new") | ~pl.col("new").any().over("source"))
    unknown = share.group_by("source").agg(1 - pl.col("known").sum() / pl.col("n").sum().clip(1)).sort("source")
    table = pl.DataFrame({"group": groups, "source": pl.Series(names).gather(groups), "cluster": labels[rows]})
    table = table.with_columns(bin=explained_bins(explained[rows]), new=is_held_out[rows]).filter(explained[rows] > 0)
    of_source, of_cluster, of_group = (_histograms(table, key) for key in ("source", "cluster", "group"))
    nothing = np.zeros(N_BINS, np.int64)
    source_counts = [of_source.get(name, nothing) for name in names]
    is_enough = [of_group.get(group, nothing).sum() >= MIN_DOCUMENTS for group in range(len(names))]
    return KnownGroups(
        names,
        _means(terms, groups, len(names)),
        np.stack([of_group[i] if enough else source_counts[i] for i, enough in enumerate(is_enough)]),
        np.stack(source_counts),
        np.stack([of_cluster.get(cluster, nothing) for cluster in range(model.n_clusters)]),
        dict(unknown.iter_rows()),
    )


def explained_bins(explained: NDArray[np.float32]) -> NDArray[np.int64]:
    """Bin number [n] of each document: one of `N_BINS` bins over the square root of `explained`."""
    return np.minimum(np.sqrt(np.minimum(explained, 1)) * N_BINS, N_BINS - 1).astype(np.int64)


def nearest_mixture(profiles: NDArray[np.float32], profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Non-negative weights [n_groups] of the mixture of profiles that is nearest to `profile` (least squares)."""
    from scipy.optimize import nnls

    # The Cholesky factor gives the same least squares solution as the profiles, in only n_groups dimensions.
    gram = (profiles @ profiles.T).astype(np.float64)
    ridge = 1e-6 * np.trace(gram) / len(gram) + 1e-12
    factor = np.linalg.cholesky(gram + ridge * np.eye(len(gram)))
    weights, _ = nnls(factor.T, np.linalg.solve(factor, profiles @ profile))
    return np.asarray(weights, np.float64)


def _added_up(sources: Sequence[str], shares: NDArray[np.float64]) -> dict[str, float]:
    """The total share of each source, largest first."""
    table = pl.DataFrame({"source": sources, "share": shares}).group_by("source").sum()
    return dict(table.sort("share", "source", descending=[True, False]).iter_rows())


def _small_clusters(X: NDArray[np.float32]) -> NDArray[np.int32]:
    """A small cluster [n] for each row."""
    from analysis.clusters.kmeans import assign, count_distinct_rows, sweep_kmeans

    n_clusters = max(1, min(MAX_CLUSTERS, len(X) // (2 * MIN_DOCUMENTS)))
    sample = np.ascontiguousarray(X[:: max(1, len(X) // CLUSTERED)])
    return assign(X, sweep_kmeans(sample, [min(n_clusters, count_distinct_rows(sample, n_clusters))]).centers[0])[0]


def _groups(sources: pl.Series, clusters: NDArray[np.int32]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The source of each group, and the group [n] of each document."""
    table = pl.DataFrame({"source": sources, "cluster": clusters.astype(np.int64)})
    cells = table.group_by("source", "cluster").len().sort("len", "source", "cluster", descending=[True, False, False])
    large = cells.filter(pl.col("len") >= MIN_DOCUMENTS).head(MAX_GROUPS).select("source", "cluster", is_large=True)
    table = table.join(large, on=["source", "cluster"], how="left", maintain_order="left")
    table = table.select("source", cluster=pl.when("is_large").then("cluster").otherwise(-1))
    is_small = pl.len().over("source", "cluster") < MIN_DOCUMENTS
    table = table.with_columns(source=pl.when(is_small).then(pl.lit(OTHER_SOURCES)).otherwise("source"))
    numbers = table.select(pl.struct("source", "cluster").rank("dense") - 1).to_series()
    names = table.with_columns(group=numbers).unique("group").sort("group")["source"]
    return tuple(names), numbers.to_numpy().astype(np.int64)


def _means(rows: "csr_array", groups: NDArray[np.int64], n_groups: int) -> NDArray[np.float32]:
    from scipy.sparse import csr_array

    sizes = np.bincount(groups, minlength=n_groups)
    chosen = csr_array((1 / sizes[groups], (groups, np.arange(len(groups)))), shape=(n_groups, len(groups)))
    return np.asarray((chosen @ rows).toarray(), np.float32)


def _histograms(table: pl.DataFrame, key: str) -> dict[Any, NDArray[np.int64]]:
    """Held-out documents per bin for each value of a column; all its documents if none is held out."""
    chosen = table.filter(pl.col("new") | ~pl.col("new").any().over(key))
    return {
        value: np.bincount(rows["bin"].to_numpy(), minlength=N_BINS).astype(np.int64)
        for (value,), rows in chosen.group_by(key)
    }


def _spreads(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each row divided by its sum; a row of zeros stays zero."""
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), np.float64)
