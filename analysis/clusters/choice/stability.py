"""How much clusters depend on the sample."""

import numpy as np

from analysis.clusters.kmeans import Features, assign, count_distinct_rows, sweep_kmeans


def half_split_agreement(X: Features, n_clusters: int, *, random_state: int = 0) -> float:
    """Do two halves of the rows give the same clusters? Mean adjusted Rand index over three random splits, on all rows.

    1 means the same clusters, 0 is chance. It is nan if a half has fewer distinct rows than clusters.
    """
    from sklearn.metrics import adjusted_rand_score

    random = np.random.default_rng(random_state)
    scores = []
    for _ in range(3):
        order = random.permutation(len(X))
        halves = [np.ascontiguousarray(X[np.sort(order[side::2])]) for side in (0, 1)]
        if any(count_distinct_rows(half, n_clusters) < n_clusters for half in halves):
            return float("nan")
        first, second = (assign(X, sweep_kmeans(half, (n_clusters,)).centers[0])[0] for half in halves)
        scores.append(adjusted_rand_score(first, second))
    return float(np.mean(scores))
