"""Similarity of subspaces and sizes of products, by hand."""

import numpy as np
import pytest

from analysis.adapters.subspace import (
    cosine,
    effective_rank,
    linear_cka,
    orthonormal_rows,
    principal_cosines,
    relative_distance,
    subspace_similarity,
)


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    return subspace_similarity(principal_cosines(orthonormal_rows(a), orthonormal_rows(b)))


def test_principal_angles_by_hand():
    angle = np.pi / 6
    a = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    b = np.array([[3.0, 0, 0, 0], [0, np.cos(angle), np.sin(angle), 0]])
    cosines = principal_cosines(orthonormal_rows(a), orthonormal_rows(b))
    np.testing.assert_allclose(cosines, [1, np.cos(angle)], atol=1e-12)
    assert similarity(a, b) == pytest.approx((1 + 0.75) / 2)


def test_similarity_ignores_the_basis_and_the_empty_subspace():
    generator = np.random.default_rng(0)
    a, mix = generator.normal(size=(4, 30)), generator.normal(size=(4, 4))
    assert similarity(a, mix @ a) == pytest.approx(1)
    assert np.isnan(similarity(a, np.zeros((4, 30))))
    assert orthonormal_rows(np.outer(np.ones(4), a[0])).shape == (1, 30)


def test_random_subspaces_have_the_chance_that_is_stated():
    generator = np.random.default_rng(0)
    draws = [similarity(generator.normal(size=(4, 40)), generator.normal(size=(8, 40))) for _ in range(200)]
    assert np.mean(draws) == pytest.approx(8 / 40, rel=0.05)


def test_cka_is_that_of_centred_gram_matrices():
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(3, 20)), generator.normal(size=(5, 20))
    centering = np.eye(20) - 1 / 20
    k, m = centering @ a.T @ a @ centering, centering @ b.T @ b @ centering
    assert linear_cka(a, b) == pytest.approx(np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m)))
    assert linear_cka(a, -2 * a[::-1]) == pytest.approx(1)
    assert np.isnan(linear_cka(a, np.ones_like(a)))


def test_sizes_by_hand():
    a = np.array([[3.0, 0], [0, 3]])
    assert effective_rank(a) == pytest.approx(2)
    assert effective_rank(np.zeros((2, 2))) == 0
    assert effective_rank(np.diag([1.0, 1e-9])) == pytest.approx(1, abs=1e-6)
    assert relative_distance(a, a) == 0
    assert relative_distance(a, -a) == pytest.approx(2)
    assert cosine(a, -a) == pytest.approx(-1)
    assert np.isnan(cosine(a, np.zeros((2, 2))))
