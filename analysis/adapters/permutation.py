"""Permutation tests: is a paired difference, or the separation of labelled points, more than chance?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Integer
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def sign_flip_p_value(
    differences: Float64[np.ndarray, " n"], *, n_permutations: int = 9999, random_state: int = 0
) -> float:
    """One-sided p-value that the mean of paired differences is above zero; their signs are free under the null.

    Raises:
        ValueError: `differences` is empty.
    """
    if not len(differences):
        raise ValueError("differences: expected at least one, got none")
    signs = np.random.default_rng(random_state).choice([-1.0, 1.0], (n_permutations, len(differences)))
    return p_value(float(np.sum(differences)), signs @ differences)


def p_value(statistic: float, null: Float64[np.ndarray, " draws"]) -> float:
    """Share of the null at or above the statistic, which counts as one draw of it itself (never 0)."""
    tolerance = 1e-9 * (1 + abs(statistic))
    return float((1 + np.sum(null >= statistic - tolerance)) / (1 + len(null)))


@dataclass(frozen=True)
class Separability:
    """How well points with different labels separate, with one-sided permutation p-values.

    Attributes:
        silhouette: mean silhouette coefficient, -1 to 1.
        knn_accuracy: share of points whose nearest neighbours mostly have the same label.
        chance: mean `knn_accuracy` for permuted labels.
    """

    silhouette: float
    silhouette_p: float
    knn_accuracy: float
    knn_p: float
    chance: float


def separability(
    distances: Float64[np.ndarray, "n n"],
    labels: Integer[np.ndarray, " n"],
    blocks: Integer[np.ndarray, " n"],
    *,
    n_neighbors: int = 5,
    n_permutations: int = 499,
    random_state: int = 0,
) -> Separability:
    """Measure how well labelled points separate, against labels permuted within blocks.

    Args:
        distances: [n, n], symmetric with a zero diagonal.
        labels: [n], from 0 to n_labels - 1.
        blocks: [n], block numbers. Labels are permuted only within a block. Here a block is a place in the model, so
            each place keeps its heads.

    Raises:
        ValueError: there are fewer than two labels, or a label has only one point.
    """
    counts = np.bincount(labels)
    if len(counts) < 2 or counts.min() < 2:
        raise ValueError(f"labels: expected at least two labels with two points each, got counts {counts.tolist()}")
    neighbors = np.argsort(distances + np.diag(np.full(len(labels), np.inf)), axis=1, kind="stable")
    neighbors = neighbors[:, : min(n_neighbors, len(labels) - 1)]
    generator = np.random.default_rng(random_state)
    observed = _statistics(distances, neighbors, labels)
    null = np.array(
        [
            _statistics(distances, neighbors, _permute_within(labels, blocks, generator))
            for _ in range(n_permutations)
        ]
    )  # fmt: skip
    return Separability(
        silhouette=observed[0],
        silhouette_p=p_value(observed[0], null[:, 0]),
        knn_accuracy=observed[1],
        knn_p=p_value(observed[1], null[:, 1]),
        chance=float(null[:, 1].mean()),
    )


@dataclass(frozen=True)
class Matching:
    """How often heads are matched correctly with those of another seed, with a one-sided permutation p-value.

    Attributes:
        accuracy: share of heads whose most similar head in the other seed was trained on the same part.
        p: p-value of `accuracy`, with parts permuted at each place.
        chance: one over the number of parts.
    """

    accuracy: float
    p: float
    chance: float


def matching(
    similarities: Float64[np.ndarray, "places rows parts"], *, n_permutations: int = 9999, random_state: int = 0
) -> Matching:
    """Whether equal parts are most alike across two seeds.

    Args:
        similarities: [n_places, n_parts, n_parts]. Rows are the parts of one seed, columns are the same parts of the
            other seed.

    Raises:
        ValueError: there is no place, there are fewer than two parts, or the matrices are not square.
    """
    n_places, n_rows, n_parts = similarities.shape
    if not n_places or n_parts < 2 or n_rows != n_parts:
        raise ValueError(f"similarities: expected [places, n, n] with n of at least 2, got {similarities.shape}")
    found = similarities.argmax(axis=1)
    # hits[p, i, j]: part i is matched with column j. Under the null, the true parts at a place are a random
    # permutation.
    hits = found[:, None, :] == np.arange(n_parts)[None, :, None]
    observed = float(np.trace(hits, axis1=1, axis2=2).sum())
    orders = np.argsort(np.random.default_rng(random_state).random((n_permutations, n_places, n_parts)), axis=2)
    null = np.take_along_axis(hits[None], orders[:, :, None, :], axis=2).sum(axis=(1, 2, 3))
    return Matching(observed / found.size, p_value(observed, null.astype(float)), 1 / n_parts)


def _permute_within(
    labels: NDArray[np.integer], blocks: NDArray[np.integer], generator: np.random.Generator
) -> NDArray[np.integer]:
    # Both orders list the blocks one after the other. Within a block, the second order is random.
    in_order = np.argsort(blocks, kind="stable")
    shuffled = np.lexsort((generator.random(len(labels)), blocks))
    permuted = np.empty_like(labels)
    permuted[in_order] = labels[shuffled]
    return permuted


def _statistics(
    distances: Floats, neighbors: NDArray[np.integer], labels: NDArray[np.integer]
) -> tuple[float, float]:  # fmt: skip
    one_hot = np.eye(int(labels.max()) + 1)[labels]
    counts, rows = one_hot.sum(axis=0), np.arange(len(labels))
    sums = distances @ one_hot
    within = sums[rows, labels] / (counts[labels] - 1)
    means = sums / counts
    means[rows, labels] = np.inf
    nearest = means.min(axis=1)
    larger = np.maximum(within, nearest)
    silhouettes = np.divide(nearest - within, larger, out=np.zeros(len(labels)), where=larger > 0)
    votes = one_hot[neighbors].sum(axis=1)
    return float(silhouettes.mean()), float((votes.argmax(axis=1) == labels).mean())
