"""The rule that reads a number of clusters off a K sweep: the L-method.

docs/results/selection.md shows how far it and five other rules are from the truth on corpora with known parts.
"""

import numpy as np
from numpy.typing import NDArray

from analysis.clusters.kmeans import ClusterSweep

Scores = NDArray[np.float64]


def l_method(sweep: ClusterSweep) -> Scores:
    """A score for every K: minus the mean distance of K to the corners. The K with the highest score is the median
    corner."""
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
    return np.array([ks[np.argmax(two_lines(ks[:end], logs[:end]))] for end in ends])


def two_lines(x: NDArray[np.int64], y: NDArray[np.float64]) -> Scores:
    """Minus the squared error of two straight lines that fit y and meet at each x; -inf at both ends."""
    scores = np.full(len(x), -np.inf)
    for corner in range(1, len(x) - 1):
        scores[corner] = -_line_error(x[: corner + 1], y[: corner + 1]) - _line_error(x[corner:], y[corner:])
    return scores


def _line_error(x: NDArray[np.int64], y: NDArray[np.float64]) -> float:
    """Sum of squared residuals of the best straight line."""
    x, y = x - x.mean(), y - y.mean()
    residuals = y - (x @ y) / (x @ x) * x
    return float(residuals @ residuals)
