"""Lloyd's algorithm for many starts at once: they share each pass over the rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.clusters.kmeans._kernels import assign_block, squared_distances_to

Features = NDArray[np.float32]
Labels = NDArray[np.int32]
# Rows per block, small enough that the inner products of a block with all centres stay in the cache.
BLOCK_ROWS = 512


@dataclass
class Fit:
    """Centres [K, d], the nearest centre of each row [n], their SSE, and the number of iterations."""

    centers: Features
    labels: Labels
    inertia: float
    n_iter: int


def lloyd(
    rows: Features, weights: NDArray[np.float64], starts: Sequence[Features], max_iter: int, tolerance: float
) -> list[Fit]:
    """One fit for each of the starts; a fit whose centres move by less than `tolerance` stops."""
    centers = list(starts)
    n_iter = [0] * len(starts)
    active = list(range(len(starts)))
    for _ in range(max_iter):
        labels, sums, counts = nearest_centers(rows, weights, [centers[f] for f in active])
        moving = []
        for position, f in enumerate(active):
            moved = _means(rows, labels[position], sums[position], counts[position], centers[f])
            shift = float(np.square(moved - centers[f], dtype=np.float64).sum())
            centers[f] = moved
            n_iter[f] += 1
            if shift > tolerance:
                moving.append(f)
        active = moving
        if not active:
            break
    labels, _, _ = nearest_centers(rows, weights, centers)
    return [
        Fit(centers[f], labels[f], float(weights @ squared_distances_to(rows, centers[f], labels[f])), n_iter[f])
        for f in range(len(centers))
    ]


def nearest_centers(
    rows: Features, weights: NDArray[np.float64], centers: Sequence[Features]
) -> tuple[Labels, list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Labels [fits, n]; and for each fit, the weighted sums [K, d] and the weights [K] of its clusters."""
    packed = np.concatenate(centers)
    offsets = np.cumsum([0, *map(len, centers)])
    half_norms = (np.square(packed, dtype=np.float64).sum(axis=1) / 2).astype(np.float32)
    labels = np.empty((len(centers), len(rows)), np.int32)
    sums, counts = np.zeros(packed.shape), np.zeros(len(packed))
    buffer = np.empty(len(packed) * BLOCK_ROWS, np.float32)
    for first in range(0, len(rows), BLOCK_ROWS):
        block = slice(first, min(first + BLOCK_ROWS, len(rows)))
        products = buffer[: len(packed) * (block.stop - first)].reshape(len(packed), -1)
        np.matmul(packed, rows[block].T, out=products)
        assign_block(products, half_norms, offsets, rows[block], weights[block], labels[:, block], sums, counts)
    return labels, np.split(sums, offsets[1:-1]), np.split(counts, offsets[1:-1])


def _means(
    rows: Features, labels: Labels, sums: NDArray[np.float64], counts: NDArray[np.float64], centers: Features
) -> Features:
    """Centres of the clusters. An empty cluster moves to the row that is farthest from its centre."""
    empty = np.flatnonzero(counts == 0)
    means = (sums / np.where(counts == 0, 1, counts)[:, None]).astype(np.float32)
    if len(empty):
        distances = squared_distances_to(rows, centers, labels)
        means[empty] = rows[np.argsort(-distances, kind="stable")[: len(empty)]]
    return means


def extended(rows: Features, fit: Fit, n_clusters: int) -> Features:
    """The centres of a fit, extended to `n_clusters` by the rows that are farthest from their own centres."""
    centers, labels = fit.centers, fit.labels
    while len(centers) < n_clusters:
        worst = int(np.argmax(squared_distances_to(rows, centers, labels)))
        centers = np.vstack([centers, rows[worst]])
        labels, _, _ = nearest_centers(rows, np.ones(len(rows)), [centers])
        labels = labels[0]
    return centers
