"""Similarity of two matrices: principal angles, linear CKA, cosine and distance; effective rank of one matrix."""

import numpy as np
from jaxtyping import Float, Float64

Rows = Float[np.ndarray, "r dim"]
"""r directions in a space of `dim` dimensions."""


def orthonormal_rows(rows: Rows) -> Float64[np.ndarray, "rank dim"]:
    """An orthonormal basis of what the rows span: [rank, dim]; no rows for a zero matrix."""
    _, singular_values, right = np.linalg.svd(np.asarray(rows, np.float64), full_matrices=False)
    tolerance = max(rows.shape) * np.finfo(np.float32).eps * (singular_values[0] if len(singular_values) else 0.0)
    return np.asarray(right[singular_values > tolerance])


def principal_cosines(
    basis_a: Float64[np.ndarray, "rank_a dim"], basis_b: Float64[np.ndarray, "rank_b dim"]
) -> Float64[np.ndarray, " smaller"]:
    """Cosines of the principal angles between two subspaces, descending, one for each dimension of the smaller.

    Source: Björck and Golub (1973), Numerical methods for computing angles between linear subspaces.
    """
    return np.clip(np.linalg.svd(basis_a @ basis_b.T, compute_uv=False), 0.0, 1.0)


def subspace_similarity(cosines: Float64[np.ndarray, " n"]) -> float:
    """Mean squared cosine of the principal angles: 1 where one subspace holds the other, 0 where they are orthogonal.

    For random subspaces of r_a and r_b dimensions, its mean is max(r_a, r_b) / dim. It is nan for a zero matrix.
    Source: the measure phi of Hu et al. (2022), LoRA, section 7.2.
    """
    return float(np.mean(np.square(cosines))) if len(cosines) else float("nan")


def linear_cka(a: Float[np.ndarray, "r_a dim"], b: Float[np.ndarray, "r_b dim"]) -> float:
    """Linear centred kernel alignment of two matrices, dimensions as examples and rows as features; 0 to 1.

    Unlike the principal angles, it weights directions by their size. It is nan if a matrix is constant. Source:
    Kornblith et al. (2019), Similarity of neural network representations revisited.
    """
    x, y = (np.asarray(rows, np.float64) - np.mean(rows, axis=1, keepdims=True) for rows in (a, b))
    scale = float(np.linalg.norm(x @ x.T) * np.linalg.norm(y @ y.T))
    return float(np.linalg.norm(x @ y.T) ** 2 / scale) if scale > 0 else float("nan")


def cosine(a: Rows, b: Rows) -> float:
    """Cosine of the angle between two matrices as vectors; nan if one is zero."""
    scale = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.vdot(a, b)) / scale if scale > 0 else float("nan")


def relative_distance(a: Rows, b: Rows) -> float:
    """Distance between two matrices over the root mean square of their norms: 0 if equal, about 1.41 if unrelated."""
    scale = np.sqrt((np.linalg.norm(a) ** 2 + np.linalg.norm(b) ** 2) / 2)
    return float(np.linalg.norm(a - b) / scale) if scale > 0 else float("nan")


def effective_rank(rows: Rows) -> float:
    """Exponential of the entropy of the normalised singular values; 0 for a zero matrix.

    Source: Roy and Vetterli (2007), The effective rank.
    """
    singular_values = np.linalg.svd(np.asarray(rows, np.float64), compute_uv=False)
    total = float(singular_values.sum())
    if total == 0:
        return 0.0
    shares = singular_values[singular_values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))
