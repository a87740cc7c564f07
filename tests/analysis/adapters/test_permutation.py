"""Permutation tests: p values, separability and matching."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from analysis.adapters.permutation import matching, p_value, separability, sign_flip_p_value


def test_p_values_by_hand():
    assert p_value(2.0, np.array([0.0, 1, 2, 3])) == pytest.approx(3 / 5)
    assert sign_flip_p_value(np.ones(12)) < 0.002  # 1 of 4,096 sign patterns is as large
    assert sign_flip_p_value(np.array([1.0, -1.0])) > 0.5
    with pytest.raises(ValueError, match="at least one"):
        sign_flip_p_value(np.array([]))


def test_separability_agrees_with_scikit_learn_and_tells_chance_from_structure():
    generator = np.random.default_rng(2)
    labels, blocks = np.tile([0, 1, 2], 20), np.repeat(np.arange(20), 3)
    apart = generator.normal(size=(60, 5)) + 4 * np.eye(5)[labels]
    mixed = generator.normal(size=(60, 5))
    for points, is_apart in ((apart, True), (mixed, False)):
        d = np.linalg.norm(points[:, None] - points, axis=2)
        found = separability(d, labels, blocks, n_permutations=99)
        assert found.silhouette == pytest.approx(silhouette_score(d, labels, metric="precomputed"))
        assert (found.silhouette_p <= 0.02) == is_apart
        assert (found.knn_p <= 0.02) == is_apart
        assert found.chance == pytest.approx(1 / 3, abs=0.08)


def test_separability_needs_two_points_a_label():
    with pytest.raises(ValueError, match=r"got counts \[2, 1\]"):
        separability(np.zeros((3, 3)), np.array([0, 0, 1]), np.array([0, 1, 1]))


def test_matching_by_hand():
    # Two places of three parts: at the first all are recognised, at the second one of three.
    first, second = np.eye(3), np.array([[0.9, 0.9, 0.9], [0, 0, 0], [0, 0, 0]])
    found = matching(np.stack([first, second]))
    assert (found.accuracy, found.chance) == (pytest.approx(4 / 6), pytest.approx(1 / 3))  # type: ignore[comparison-overlap]
    # The second place has one hit in any order; the first has three in one order of six.
    assert found.p == pytest.approx(1 / 6, abs=0.015)
    assert matching(np.stack([np.eye(3)] * 8)).p < 0.001
    with pytest.raises(ValueError, match=r"got \(2, 3, 1\)"):
        matching(np.zeros((2, 3, 1)))
