"""How often samples of the documents give the same number of clusters."""

from collections import Counter

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64

from analysis.clusters.choice.selection import elbow
from analysis.clusters.choice.structure import measure_structure
from analysis.clusters.kmeans import count_distinct_rows, sweep_kmeans

SAMPLE_SIZE = 2048


def resampled_numbers(
    X: Float32[np.ndarray, "n d"],
    texts: pl.Series,
    max_clusters: int,
    sample_weight: Float64[np.ndarray, " n"] | None = None,
    n_samples: int = 6,
    random_state: int = 0,
) -> dict[int, int]:
    """The number of clusters in random samples: number -> how many samples have it, most frequent first.

    A sample has half of the documents, at most `SAMPLE_SIZE`, without repetition. The features stay those of the whole
    corpus.

    Args:
        X: rows of the documents.
        texts: [n], the documents.
        max_clusters: largest K of the sweeps.
        sample_weight: weights of the documents; None means equal weights.
    """
    random = np.random.default_rng(random_state)
    size = max(min(SAMPLE_SIZE, len(X) // 2), min(len(X), 2))
    found: Counter[int] = Counter()
    for i in range(n_samples):
        rows = np.sort(random.choice(len(X), size, replace=False))
        weights = None if sample_weight is None else sample_weight[rows]
        sample = np.ascontiguousarray(X[rows])
        if not measure_structure(texts.gather(rows), weights, i).structure:
            found[1] += 1
            continue
        ks = range(1, min(max_clusters, count_distinct_rows(sample, max_clusters)) + 1)
        found[elbow(sweep_kmeans(sample, ks, n_init=1, sample_weight=weights, random_state=i))] += 1
    return dict(found.most_common())
