"""The inner loops of K-means, compiled: many fits over the same points share each pass over the data.

A fit is one K and one start. The centres of all fits lie behind each other; `offsets[f] : offsets[f + 1]` are those of
fit f. Sums run in a fixed order in float64, so that the same input gives the same bytes whatever the number of threads.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def assign_rows(
    rows: Floats,
    weights: Doubles,
    centers_transposed: Floats,
    half_norms: Floats,
    offsets: Integers,
    labels: NDArray[np.int32],
    sums: Doubles,
    counts: Doubles,
) -> None:
    """One assignment step of every fit.

    Args:
        rows: [n, d].
        weights: [n].
        centers_transposed: [d, total], of all fits.
        half_norms: [total], half of each centre's squared length.
        offsets: [fits + 1].
        labels: [fits, n], written: the nearest centre within each fit; the first one on a tie.
        sums: [total, d], added to: weighted sum of the rows of each cluster.
        counts: [total], added to: weight of each cluster.
    """
    n_rows, n_features = rows.shape
    total = half_norms.shape[0]
    n_fits = offsets.shape[0] - 1
    scores = np.empty(total, np.float32)
    for i in range(n_rows):
        for c in range(total):
            scores[c] = -half_norms[c]
        for j in range(n_features):
            value = rows[i, j]
            for c in range(total):
                scores[c] += value * centers_transposed[j, c]
        weight = weights[i]
        for f in range(n_fits):
            best = offsets[f]
            best_score = scores[best]
            for c in range(offsets[f] + 1, offsets[f + 1]):
                if scores[c] > best_score:
                    best_score = scores[c]
                    best = c
            labels[f, i] = best - offsets[f]
            counts[best] += weight
            for j in range(n_features):
                sums[best, j] += weight * rows[i, j]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def squared_distances_to(rows: Floats, centers: Floats, labels: NDArray[np.int32]) -> Doubles:
    """[n]: squared distance of each row to the centre its label names, in float64."""
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
    """Rows chosen as centres: each step draws candidates by D² sampling and keeps the one that lowers the SSE most.

    The first k choices are a k-means++ start for k clusters, so one sequence serves every K (nested).

    Args:
        rows: [n, d].
        weights: [n].
        uniforms: [n_centers, candidates], draws from [0, 1).

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
    """Number of distinct rows, counted no further than `limit`."""
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
