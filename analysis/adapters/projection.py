"""Matrices of any shapes as points in the plane: t-SNE and UMAP of their directions."""

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64
from numpy.typing import NDArray

from analysis.adapters.parts import Submodule

Floats = NDArray[np.float64]
Method = Literal["t-SNE", "UMAP"]


def gram(submodules: Sequence[Submodule]) -> Float64[np.ndarray, "n n"]:
    """[n, n] cosines between matrices as vectors, zero between different shapes or between A and B.

    Matrices of different shapes (grouped-query attention, MLP) lie in orthogonal subspaces of one space. Nothing is
    cut, padded or projected, so distances between equal shapes are exact. Norms are ignored: B starts at zero and A
    does not, so raw distances would mostly show size.
    """
    result = np.zeros((len(submodules), len(submodules)))
    kinds: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for i, submodule in enumerate(submodules):
        kinds.setdefault((submodule.matrix, submodule.rows.shape), []).append(i)
    for rows in kinds.values():
        vectors = np.stack([submodules[i].rows.ravel() for i in rows]).astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        result[np.ix_(rows, rows)] = vectors @ vectors.T
    return result


def distances(cosines: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n n"]:
    """[n, n] Euclidean distances between unit vectors with these cosines."""
    squared = np.maximum(2.0 - 2.0 * cosines, 0.0)
    np.fill_diagonal(squared, 0.0)
    return np.sqrt(squared)


def embed(cosines: Float64[np.ndarray, "n n"], method: Method, *, random_state: int = 0) -> Float[np.ndarray, "n 2"]:
    """[n, 2] coordinates of points with these inner products; the same input gives the same output.

    Raises:
        ValueError: there are fewer than five points.
    """
    n = len(cosines)
    if n < 5:
        raise ValueError(f"{method}: expected at least 5 points, got {n}")
    points = _coordinates(cosines)
    if method == "t-SNE":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (n - 1) / 4)
        return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=random_state).fit_transform(points))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # UMAP warns that TensorFlow is missing; we do not use it
        from umap import UMAP

    # A place has one near point per head. With more neighbours, most would be unrelated and clump together. Spectral
    # initialisation fails if the neighbour graph is disconnected, as it is here.
    mapper = UMAP(n_neighbors=min(5, n - 1), min_dist=0.5, init="pca", random_state=random_state, n_jobs=1)
    return np.asarray(mapper.fit_transform(points), np.float64)


def _coordinates(cosines: Floats) -> NDArray[np.float32]:
    """Principal coordinates of the points, largest first, each with a fixed sign.

    All coordinates are kept: matrices at different places are nearly orthogonal, so a few directions cannot preserve
    their distances.
    """
    centered = cosines - cosines.mean(axis=0) - cosines.mean(axis=1, keepdims=True) + cosines.mean()
    values, vectors = np.linalg.eigh(centered)
    order = np.argsort(-values)
    order = order[values[order] > 1e-9 * len(values)]
    vectors = vectors[:, order] * np.sqrt(values[order])
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    return np.asarray(vectors * np.where(signs == 0, 1.0, signs), np.float32)
