"""Similarity of two matrices: principal angles, linear CKA, cosine and distance; effective rank of one matrix."""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.floating]
"""[r, dim]: r directions in a space of `dim` dimensions."""


def orthonormal_rows(rows: Rows) -> NDArray[np.float64]:
    """An orthonormal basis [rank, dim] of the row space; it has no rows for a zero matrix."""
    _, singular_values, right = np.linalg.svd(np.asarray(rows, np.float64), full_matrices=False)
    tolerance = max(rows.shape) * np.finfo(np.float32).eps * (singular_values[0] if len(singular_values) else 0.0)
    return np.asarray(right[singular_values > tolerance])


def principal_cosines(basis_a: NDArray[np.float64], basis_b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines of the principal angles between two subspaces, descending, one per dimension of the smaller subspace.

    Source: Björck and Golub (1973), Numerical methods for computing angles between linear subspaces.
    """
    return np.clip(np.linalg.svd(basis_a @ basis_b.T, compute_uv=False), 0.0, 1.0)


def subspace_similarity(cosines: NDArray[np.float64]) -> float:
    """Mean squared cosine of the principal angles: 1 if one subspace contains the other, 0 if they are orthogonal.

    For random subspaces of r_a and r_b dimensions, its mean is max(r_a, r_b) / dim. It is nan for a zero matrix.
    Source: the measure phi of Hu et al. (2022), LoRA, section 7.2.
    """
    return float(np.mean(np.square(cosines))) if len(cosines) else float("nan")


def linear_cka(a: Rows, b: Rows) -> float:
    """Linear centred kernel alignment (CKA) of two matrices, with dimensions as examples and rows as features; 0 to 1.

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
