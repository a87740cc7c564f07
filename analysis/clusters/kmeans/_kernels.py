"""The inner loops of K-means, compiled: many fits over the same points share each pass over the data.

A fit is one K with one start. The centres of all fits are concatenated; fit f has the centres `offsets[f] : offsets[f +
1]`. Sums run in a fixed order in float64, so the result does not depend on the number of threads.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]


@njit(cache=True, nogil=True)
def assign_block(
    products: Floats,
    half_norms: Floats,
    offsets: Integers,
    rows: Floats,
    weights: Doubles,
    labels: NDArray[np.int32],
    sums: Doubles,
    counts: Doubles,
) -> None:
    """The assignment step of every fit for a block of rows.

    Args:
        products: [total, block], inner products of all centres with the rows.
        half_norms: [total], half of each centre's squared length.
        offsets: [fits + 1].
        rows: [block, d].
        weights: [block].
        labels: [fits, block], output: the nearest centre within each fit; the first one on a tie.
        sums: [total, d], updated in place: the weighted sum of each cluster's rows is added.
        counts: [total], updated in place: the weight of each cluster is added.
    """
    n_rows, n_features = rows.shape
    best_score = np.empty(n_rows, np.float32)
    best = np.empty(n_rows, np.int32)
    weighted_rows = (weights.reshape(-1, 1) * rows).astype(np.float32)
    block_sums = np.empty((np.max(offsets[1:] - offsets[:-1]), n_features), np.float32)
    for f in range(offsets.shape[0] - 1):
        first, last = offsets[f], offsets[f + 1]
        best_score[:] = products[first] - half_norms[first]
        best[:] = 0
        for c in range(first + 1, last):
            center = np.int32(c - first)
            half_norm = half_norms[c]
            for i in range(n_rows):  # branch-free, over consecutive rows, so that it vectorises
                score = products[c, i] - half_norm
                closer = score > best_score[i]
                best_score[i] = score if closer else best_score[i]
                best[i] = center if closer else best[i]
        labels[f] = best
        block_sums[: last - first] = 0
        for i in range(n_rows):
            c = best[i]
            counts[first + c] += weights[i]
            for j in range(n_features):
                block_sums[c, j] += weighted_rows[i, j]
        sums[first:last] += block_sums[: last - first]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def squared_distances_to(rows: Floats, centers: Floats, labels: NDArray[np.int32]) -> Doubles:
    """Squared distance [n] of each row to the centre of its label, in float64."""
    distances = np.empty(rows.shape[0], np.float64)
    for i in range(rows.shape[0]):
        total = 0.0
        center = centers[labels[i]]
        for j in range(rows.shape[1]):
            difference = np.float64(rows[i, j]) - np.float64(center[j])
            total += difference * difference
        distances[i] = total
    return distances


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def greedy_kmeans_plusplus(rows: Floats, weights: Doubles, uniforms: Doubles) -> Integers:
    """Choose rows as centres: each step draws candidates by D² sampling and keeps the one that lowers the SSE most.

    The first k choices are a k-means++ start for k clusters, so one sequence serves every K.

    Args:
        rows: [n, d].
        weights: [n].
        uniforms: [n_centers, candidates], uniform draws from [0, 1).

    Source: Arthur and Vassilvitskii (2007), section 2.2; the greedy variant is section 5.
    """
    n_rows, n_features = rows.shape
    n_centers, n_candidates = uniforms.shape
    chosen = np.empty(n_centers, np.int64)
    closest = np.full(n_rows, np.inf)
    best_closest = np.empty(n_rows)
    candidate_closest = np.empty(n_rows)
    potential = weights.copy()
    for k in range(n_centers):
        cumulative = np.cumsum(potential)
        best_sum = np.inf
        for t in range(n_candidates):
            candidate = min(np.searchsorted(cumulative, uniforms[k, t] * cumulative[-1], side="right"), n_rows - 1)
            candidate_sum = 0.0
            for i in range(n_rows):
                distance = np.float32(0.0)
                for j in range(n_features):
                    difference = rows[i, j] - rows[candidate, j]
                    distance += difference * difference
                candidate_closest[i] = min(closest[i], distance)
                candidate_sum += weights[i] * candidate_closest[i]
            if candidate_sum < best_sum:
                best_sum = candidate_sum
                chosen[k] = candidate
                best_closest[:] = candidate_closest
        closest[:] = best_closest
        potential = weights * closest
    return chosen


@njit(cache=True, nogil=True)
def count_distinct_rows(rows: Floats, limit: int) -> int:
    """Number of distinct rows; counting stops at `limit`."""
    seen = np.empty((limit, rows.shape[1]), rows.dtype)
    found = 0
    for i in range(rows.shape[0]):
        is_new = True
        for s in range(found):
            if np.all(seen[s] == rows[i]):
                is_new = False
                break
        if is_new:
            if found == limit:
                break
            seen[found] = rows[i]
            found += 1
            if found == limit:
                break
    return found
