"""Other rules that read a number of clusters off a K sweep, to compare the L-method with. The highest score wins."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from analysis.clusters.choice.elbow_rules import l_method, two_lines
from analysis.clusters.kmeans import ClusterSweep, Features

Scores = NDArray[np.float64]
SILHOUETTE_SAMPLE_SIZE = 1000


def l_method_linear(X: Features, sweep: ClusterSweep) -> Scores:
    """The L-method as published: minus the squared error of two straight lines that fit the SSE and meet at K."""
    return two_lines(np.array(sweep.n_clusters), sweep.inertia)


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


RULES: dict[str, Callable[[Features, ClusterSweep], Scores]] = {
    "l_method": lambda X, sweep: l_method(sweep),
    "l_method_linear": l_method_linear,
    "second_difference": second_difference,
    "kneed": kneed,
    "calinski_harabasz": calinski_harabasz,
    "silhouette": silhouette,
}
