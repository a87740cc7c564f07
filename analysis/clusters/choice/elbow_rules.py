"""Rules that read a number of clusters off a K sweep. Each scores every K; the highest score wins.

docs/results/selection.md shows how far each rule is from the truth on corpora with known parts.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from analysis.clusters.kmeans import ClusterSweep, Features

Scores = NDArray[np.float64]
Rule = Callable[[Features, ClusterSweep], Scores]

SILHOUETTE_SAMPLE_SIZE = 1000


def l_method(X: Features, sweep: ClusterSweep) -> Scores:
    """Minus the mean distance of K to the corners from `l_method_corners`, so that the median corner wins."""
    ks = np.array(sweep.n_clusters)
    scores = -np.abs(ks[:, None] - l_method_corners(sweep)).mean(axis=1)
    scores[[0, -1]] = -np.inf
    return np.asarray(scores)


def l_method_corners(sweep: ClusterSweep) -> NDArray[np.int64]:
    """The corners [n_ranges] where two straight lines fit log SSE best, one for each shortened sweep.

    A corner moves with the range of K, so the sweep is cut at every K from the middle to the end. On a logarithmic
    axis, a cluster counts by the share of the remaining error that it removes. So the steep first part of the curve
    does not dominate the fit.

    Source: Salvador and Chan (2004), Determining the number of clusters/segments in hierarchical clustering.
    """
    ks = np.array(sweep.n_clusters)
    floor = 1e-6 * max(float(sweep.inertia[0]), np.finfo(float).tiny)
    logs = np.log(np.maximum(sweep.inertia, floor))
    ends = range(max(3, len(ks) // 2), len(ks) + 1)
    return np.array([ks[np.argmax(_two_lines(ks[:end], logs[:end]))] for end in ends])


def l_method_linear(X: Features, sweep: ClusterSweep) -> Scores:
    """The L-method as published: minus the squared error of two straight lines that fit the SSE and meet at K."""
    return _two_lines(np.array(sweep.n_clusters), sweep.inertia)


def second_difference(X: Features, sweep: ClusterSweep) -> Scores:
    """Second difference of the SSE: how much its fall slows down at K."""
    slopes = np.diff(sweep.inertia) / np.diff(sweep.n_clusters)
    return np.concatenate([[-np.inf], np.diff(slopes), [-np.inf]])


def kneed(X: Features, sweep: ClusterSweep) -> Scores:
    """Distance of the normalised curve below its chord. If kneed finds a knee, that K wins.

    Source: Satopää et al. (2011), Finding a "kneedle" in a haystack.
    """
    from kneed import KneeLocator

    locator = KneeLocator(list(sweep.n_clusters), list(sweep.inertia), curve="convex", direction="decreasing")
    scores = np.asarray(locator.y_difference, dtype=np.float64).copy()
    if locator.knee is not None:
        scores[sweep.index(int(locator.knee))] = scores.max() + 1
    return scores


def calinski_harabasz(X: Features, sweep: ClusterSweep) -> Scores:
    """Calinski-Harabasz score: variance between clusters over variance within clusters. Undefined for K=1."""
    ks = np.array(sweep.n_clusters, dtype=np.float64)
    scores = np.full(len(ks), -np.inf)
    several = (ks > 1) & (ks < len(X)) & (sweep.inertia > 0)
    total = float(np.square(X - X.mean(axis=0), dtype=np.float64).sum())
    k, within = ks[several], sweep.inertia[several]
    scores[several] = ((total - within) / (k - 1)) / (within / (len(X) - k))
    return scores


def silhouette(X: Features, sweep: ClusterSweep) -> Scores:
    """Mean silhouette coefficient of a sample of rows. Undefined for K=1."""
    from sklearn.metrics import silhouette_score

    size = min(SILHOUETTE_SAMPLE_SIZE, len(X))
    rows = np.random.default_rng(0).choice(len(X), size, replace=False)
    scores = np.full(len(sweep.n_clusters), -np.inf)
    for i, labels in enumerate(sweep.labels):
        if 1 < len(np.unique(labels[rows])) < size:
            scores[i] = silhouette_score(X[rows], labels[rows])
    return scores


RULES: dict[str, Rule] = {
    "l_method": l_method,
    "l_method_linear": l_method_linear,
    "second_difference": second_difference,
    "kneed": kneed,
    "calinski_harabasz": calinski_harabasz,
    "silhouette": silhouette,
}


def _two_lines(x: NDArray[np.int64], y: NDArray[np.float64]) -> Scores:
    scores = np.full(len(x), -np.inf)
    for corner in range(1, len(x) - 1):
        scores[corner] = -_line_error(x[: corner + 1], y[: corner + 1]) - _line_error(x[corner:], y[corner:])
    return scores


def _line_error(x: NDArray[np.int64], y: NDArray[np.float64]) -> float:
    """Sum of squared residuals of the best straight line."""
    x, y = x - x.mean(), y - y.mean()
    residuals = y - (x @ y) / (x @ x) * x
    return float(residuals @ residuals)
