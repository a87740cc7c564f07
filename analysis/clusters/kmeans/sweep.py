"""K-means for many numbers of clusters at once."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int32
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from analysis.clusters.kmeans._kernels import (
    count_distinct_rows,
    greedy_kmeans_plusplus,
    squared_distances_to,
)
from analysis.clusters.kmeans.lloyd import Features, Fit, extended, lloyd, nearest_centers

logger = logging.getLogger(__name__)


# Starts are compared on a sample of this many rows; only the best start of each K is refined on all rows.
START_SAMPLE_SIZE = 4096
START_ITERATIONS = 8
CANDIDATES = 4
NEIGHBOUR_ROUNDS = 8


@dataclass(frozen=True)
class ClusterSweep:
    """K-means fits for a range of K. Entry i of every attribute belongs to the same fit.

    Attributes:
        n_clusters: the fitted values of K, ascending.
        inertia: [len(n_clusters)], exact sum of squared distances (SSE) of the rows to their centres; never rises with
            K.
        centers: one array [K, d] for each K.
        labels: [len(n_clusters), n], the nearest centre of each row.
        n_iter: Lloyd iterations over all rows.
        sample_weight: [n], weights of the rows; None if all rows count equally.
    """

    n_clusters: tuple[int, ...]
    inertia: Float64[np.ndarray, " sweep"]
    centers: tuple[Float32[np.ndarray, "_ d"], ...]
    labels: Int32[np.ndarray, "sweep n"]
    n_iter: tuple[int, ...]
    sample_weight: Float64[np.ndarray, " n"] | None = None

    def index(self, n_clusters: int) -> int:
        """Index of a K in the sweep.

        Raises:
            ValueError: this K was not fitted.
        """
        if n_clusters not in self.n_clusters:
            raise ValueError(f"expected one of the fitted n_clusters {list(self.n_clusters)}, got {n_clusters}")
        return self.n_clusters.index(n_clusters)


# The matrix products are small: on a busy machine, waiting BLAS threads made them 17 times slower.
@threadpool_limits.wrap(limits=1, user_api="blas")
def sweep_kmeans(
    X: ArrayLike,
    n_clusters: Iterable[int] = range(1, 21),
    *,
    n_init: int = 4,
    max_iter: int = 100,
    tol: float = 1e-4,
    sample_weight: ArrayLike | None = None,
    random_state: int = 0,
) -> ClusterSweep:
    """Fit K-means for every K in `n_clusters`, all K and starts in shared passes over the rows.

    `n_init` nested greedy k-means++ starts are refined on a sample of rows. Then the best fit of each K competes with
    its neighbours: K-1 with one cluster split, and K+1 with two clusters merged. The winner of each K is refined on all
    rows until its centres move by less than `tol` times the variance of the features. If a K ends with a higher SSE
    than a smaller K, it starts again from the solution of the smaller K, with the worst row of that solution as the new
    centre.

    Args:
        X: [n, d].
        n_clusters: values of K. Values above the number of distinct rows are skipped with a warning.
        sample_weight: [n], positive weights; None means equal weights.

    Raises:
        ValueError: X is not a finite matrix, a weight is not positive, or no K fits the number of distinct rows.
    """
    rows, weights = _validated(X, sample_weight)
    ks = _feasible(rows, n_clusters)
    mean = np.average(rows, axis=0, weights=weights).astype(np.float32)
    rows = rows - mean  # distances computed by inner products lose precision far from the origin
    tolerance = tol * float(np.average(np.square(rows).mean(axis=1), weights=weights))

    with_neighbour = [*ks, ks[-1] + 1]  # one more, so that the largest K also has a neighbour above it
    starts = _best_starts(rows, weights, with_neighbour, n_init, tolerance, np.random.default_rng(random_state))
    fits = lloyd(rows, weights, starts[: len(ks)], max_iter, tolerance)
    return _falling_sweep(rows, weights, mean, fits, max_iter, tolerance, sample_weight is not None)


def best_of_sweeps(X: ArrayLike, sweeps: Sequence[ClusterSweep]) -> ClusterSweep:
    """The fit with the lowest SSE for each K of several sweeps of the same rows; of equal ones the first.

    As in `sweep_kmeans`, a K with a higher SSE than a smaller K starts again from the solution of the smaller one.

    Args:
        X: [n, d], the rows that all sweeps were fitted to.
        sweeps: fits with equal `sample_weight`, for any K.
    """
    rows, weights = _validated(X, sweeps[0].sample_weight)
    mean = np.average(rows, axis=0, weights=weights).astype(np.float32)
    rows = rows - mean
    fits_of: dict[int, list[Fit]] = {}
    for sweep in sweeps:
        for i, k in enumerate(sweep.n_clusters):
            fit = Fit(sweep.centers[i] - mean, sweep.labels[i], float(sweep.inertia[i]), sweep.n_iter[i])
            fits_of.setdefault(k, []).append(fit)
    fits = [_best(fits_of[k]) for k in sorted(fits_of)]
    is_weighted = sweeps[0].sample_weight is not None
    return _falling_sweep(rows, weights, mean, fits, max_iter=100, tolerance=0.0, is_weighted=is_weighted)


def assign(X: ArrayLike, centers: ArrayLike) -> tuple[Int32[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Nearest centre of each row and the squared distance to it.

    Args:
        X: [n, d].
        centers: [K, d].

    Returns:
        labels [n], squared distances [n] in float64.

    >>> labels, distances = assign([[0, 1], [4, 4]], centers=[[0, 0], [4, 4]])
    >>> labels.tolist(), distances.tolist()
    ([0, 1], [1.0, 0.0])
    """
    rows, weights = _validated(X, None)
    points = np.ascontiguousarray(centers, np.float32)
    if points.ndim != 2 or points.shape[1] != rows.shape[1]:
        raise ValueError(f"centers: expected shape [K, {rows.shape[1]}], got {list(points.shape)}")
    mean = points.mean(axis=0)
    rows, points = rows - mean, points - mean
    labels, _, _ = nearest_centers(rows, weights, [points])
    return labels[0], squared_distances_to(rows, points, labels[0])


def _validated(X: ArrayLike, sample_weight: ArrayLike | None) -> tuple[Features, NDArray[np.float64]]:
    rows = np.ascontiguousarray(X, np.float32)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"X: expected a matrix [n, d] with n, d >= 1, got shape {list(rows.shape)}")
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows).all(axis=1)).sum())
        raise ValueError(f"X: expected finite numbers, got NaN or infinity in {bad} of {len(rows)} rows")
    if sample_weight is None:
        return rows, np.ones(len(rows))
    weights = np.ascontiguousarray(sample_weight, np.float64)
    if weights.shape != (len(rows),) or not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError(
            f"sample_weight: expected {len(rows)} positive finite numbers, got shape {list(weights.shape)}"
        )
    return rows, weights


def _feasible(rows: Features, n_clusters: Iterable[int]) -> list[int]:
    ks = sorted(set(n_clusters))
    if not ks or ks[0] < 1:
        raise ValueError(f"n_clusters: expected whole numbers >= 1, got {ks}")
    distinct = count_distinct_rows(rows, ks[-1])
    feasible = [k for k in ks if k <= distinct]
    if not feasible:
        raise ValueError(f"n_clusters: X has {distinct} distinct rows, too few for {ks[0]} clusters; ask for fewer")
    if len(feasible) < len(ks):
        logger.warning("X has %d distinct rows: n_clusters above that are left out", distinct)
    return feasible


def _falling_sweep(
    rows: Features,
    weights: NDArray[np.float64],
    mean: Features,
    fits: list[Fit],
    max_iter: int,
    tolerance: float,
    is_weighted: bool,
) -> ClusterSweep:
    """The fits as a sweep. One with a higher SSE than a smaller K starts again from the solution of the smaller K.

    Args:
        rows: rows from which `mean` was subtracted.
    """
    for i in range(1, len(fits)):
        if fits[i].inertia > fits[i - 1].inertia:
            start = extended(rows, fits[i - 1], len(fits[i].centers))
            fits[i] = lloyd(rows, weights, [start], max_iter, tolerance)[0]
    return ClusterSweep(
        n_clusters=tuple(len(fit.centers) for fit in fits),
        inertia=np.array([fit.inertia for fit in fits]),
        centers=tuple(fit.centers + mean for fit in fits),
        labels=np.stack([fit.labels for fit in fits]),
        n_iter=tuple(fit.n_iter for fit in fits),
        sample_weight=weights if is_weighted else None,
    )


def _best_starts(
    rows: Features,
    weights: NDArray[np.float64],
    ks: Sequence[int],
    n_init: int,
    tolerance: float,
    random: np.random.Generator,
) -> list[Features]:
    if len(rows) > START_SAMPLE_SIZE:
        sample = np.sort(random.choice(len(rows), START_SAMPLE_SIZE, replace=False))
        if count_distinct_rows(rows[sample], ks[-1]) == ks[-1]:
            rows, weights = rows[sample], weights[sample]
    sequences = [
        rows[greedy_kmeans_plusplus(rows, weights, random.random((ks[-1], CANDIDATES)))] for _ in range(n_init)
    ]
    starts = [sequence[:k] for sequence in sequences for k in ks]
    fits = lloyd(rows, weights, starts, START_ITERATIONS, tolerance)
    best = [_best(fits[i :: len(ks)]) for i in range(len(ks))]
    improved = set(range(len(ks)))
    for _ in range(NEIGHBOUR_ROUNDS):
        neighbours = [(i, start) for i in range(len(ks)) for start in _neighbours(rows, weights, best, i, improved)]
        if not neighbours:
            break
        fits = lloyd(rows, weights, [start for _, start in neighbours], START_ITERATIONS, tolerance)
        improved = set()
        for (i, _), fit in zip(neighbours, fits, strict=True):
            if fit.inertia < best[i].inertia:
                best[i] = fit
                improved.add(i)
    return [fit.centers for fit in best]


def _best(fits: Sequence[Fit]) -> Fit:
    return min(fits, key=lambda fit: fit.inertia)


def _neighbours(
    rows: Features, weights: NDArray[np.float64], fits: Sequence[Fit], index: int, improved: set[int]
) -> list[Features]:
    """Starts for one K from improved fits: K-1 with its widest cluster split, K+1 with its closest clusters merged."""
    n_clusters = len(fits[index].centers)
    starts = []
    if index - 1 in improved and len(fits[index - 1].centers) == n_clusters - 1:
        starts.append(_split_widest(rows, weights, fits[index - 1]))
    if index + 1 in improved and len(fits[index + 1].centers) == n_clusters + 1:
        starts.append(_merge_closest(weights, fits[index + 1]))
    return starts


def _split_widest(rows: Features, weights: NDArray[np.float64], fit: Fit) -> Features:
    """Split the cluster with the largest SSE in two at its mean, along its widest feature."""
    errors = weights * squared_distances_to(rows, fit.centers, fit.labels)
    widest = int(np.argmax(np.bincount(fit.labels, errors, len(fit.centers))))
    members, center = rows[fit.labels == widest], fit.centers[widest]
    spread = members.std(axis=0)
    step = np.where(spread == spread.max(), spread, 0).astype(np.float32)
    return np.vstack([np.delete(fit.centers, widest, axis=0), center - step, center + step])


def _merge_closest(weights: NDArray[np.float64], fit: Fit) -> Features:
    """Merge the two clusters whose merger raises the SSE least (Ward's criterion)."""
    sizes = np.bincount(fit.labels, weights, len(fit.centers))
    squares = np.square(fit.centers).sum(axis=1)
    distances = squares[:, None] + squares - 2 * fit.centers @ fit.centers.T
    costs = sizes[:, None] * sizes / np.maximum(sizes[:, None] + sizes, 1e-12) * distances
    np.fill_diagonal(costs, np.inf)
    a, b = np.unravel_index(int(np.argmin(costs)), costs.shape)
    merged = (sizes[a] * fit.centers[a] + sizes[b] * fit.centers[b]) / max(sizes[a] + sizes[b], 1e-12)
    return np.vstack([np.delete(fit.centers, [a, b], axis=0), merged.astype(np.float32)])
