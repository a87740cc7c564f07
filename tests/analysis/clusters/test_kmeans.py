"""The K sweep against slow references, hand-made cases and scikit-learn."""

import logging

import numpy as np
import pytest
from sklearn.cluster import KMeans

from analysis.clusters.kmeans import assign, sweep_kmeans
from analysis.clusters.kmeans._kernels import count_distinct_rows, greedy_kmeans_plusplus


def blobs(n_blobs: int, n_rows: int = 600, n_features: int = 8, spread: float = 0.3, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centers = 4 * random.standard_normal((n_blobs, n_features))
    rows = centers[random.integers(0, n_blobs, n_rows)] + spread * random.standard_normal((n_rows, n_features))
    return rows.astype(np.float32)


def slow_sse(rows: np.ndarray, centers: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The definition: every row to its nearest centre, in float64."""
    rows, centers = rows.astype(np.float64), centers.astype(np.float64)
    nearest = ((rows[:, None] - centers) ** 2).sum(axis=2).min(axis=1)
    return float(nearest @ (np.ones(len(rows)) if weights is None else weights))


def test_inertia_and_labels_are_those_of_the_centres():
    rows = blobs(5) + 100  # far from the origin, where inner products lose digits
    sweep = sweep_kmeans(rows, range(1, 9))
    for inertia, centers, labels in zip(sweep.inertia, sweep.centers, sweep.labels, strict=True):
        assert inertia == pytest.approx(slow_sse(rows, centers), rel=1e-6)
        distances = ((rows[:, None].astype(np.float64) - centers) ** 2).sum(axis=2)
        np.testing.assert_allclose(distances[np.arange(len(rows)), labels], distances.min(axis=1), rtol=1e-3)


def test_two_pairs_by_hand():
    sweep = sweep_kmeans([[0.0], [2.0], [10.0], [12.0]], (1, 2, 4))
    np.testing.assert_allclose(sweep.inertia, [104, 4, 0], atol=1e-5)  # 36 + 16 + 16 + 36; 1 + 1 + 1 + 1
    np.testing.assert_allclose(np.sort(sweep.centers[1].ravel()), [1, 11], atol=1e-5)
    assert sweep.labels[1][0] == sweep.labels[1][1] != sweep.labels[1][2] == sweep.labels[1][3]


@pytest.mark.parametrize("seed", range(5))
def test_inertia_never_rises_even_without_clusters(seed: int):
    rows = np.random.default_rng(seed).standard_normal((300, 6))
    sweep = sweep_kmeans(rows, range(1, 21), n_init=1, random_state=seed)
    assert (np.diff(sweep.inertia) <= 0).all()


def test_as_good_as_scikit_learn_with_ten_starts():
    rows = blobs(7, spread=1.5)
    sweep = sweep_kmeans(rows, range(1, 13))
    best = [KMeans(k, n_init=10, random_state=0).fit(rows).inertia_ for k in sweep.n_clusters]
    assert (sweep.inertia <= 1.01 * np.array(best)).all()


def test_finds_blobs_beyond_the_sample_of_starts():
    rows = blobs(6, n_rows=9000)
    sweep = sweep_kmeans(rows, (6,))
    assert sweep.inertia[0] == pytest.approx(KMeans(6, n_init=10, random_state=0).fit(rows).inertia_, rel=1e-4)


def test_same_seed_same_bytes_and_input_untouched():
    rows = blobs(4, n_rows=5000, spread=2.0)
    before = rows.tobytes()
    first, second = (sweep_kmeans(rows, range(1, 8), random_state=3) for _ in range(2))
    assert first.labels.tobytes() == second.labels.tobytes()
    assert first.inertia.tobytes() == second.inertia.tobytes()
    assert b"".join(c.tobytes() for c in first.centers) == b"".join(c.tobytes() for c in second.centers)
    assert rows.tobytes() == before


def test_a_weight_of_two_is_a_row_given_twice():
    rows = blobs(4, n_rows=200, spread=0.2)
    weights = np.random.default_rng(1).integers(1, 4, len(rows))
    weighted = sweep_kmeans(rows, (1, 4), sample_weight=weights)
    repeated = sweep_kmeans(np.repeat(rows, weights, axis=0), (1, 4))
    np.testing.assert_allclose(weighted.inertia, repeated.inertia, rtol=1e-5)
    assert weighted.inertia[1] == pytest.approx(slow_sse(rows, weighted.centers[1], weights), rel=1e-6)
    np.testing.assert_array_equal(weighted.sample_weight, weights)


def test_every_cluster_has_rows_where_duplicates_invite_empty_ones():
    rows = np.concatenate([np.zeros((500, 2)), np.eye(2), 2 * np.eye(2)])  # 5 distinct rows
    sweep = sweep_kmeans(rows, range(1, 6), n_init=1)
    assert [len(np.unique(labels)) for labels in sweep.labels] == [1, 2, 3, 4, 5]
    assert sweep.inertia[-1] == pytest.approx(0, abs=1e-9)


def test_more_clusters_than_distinct_rows(caplog: pytest.LogCaptureFixture):
    rows = np.repeat(np.eye(3), 10, axis=0)
    with caplog.at_level(logging.WARNING):
        assert sweep_kmeans(rows, range(1, 9)).n_clusters == (1, 2, 3)
    assert "3 distinct rows" in caplog.text
    with pytest.raises(ValueError, match="3 distinct rows, too few for 4 clusters"):
        sweep_kmeans(rows, (4, 5))


@pytest.mark.parametrize(
    ("X", "arguments", "message"),
    [
        ([1.0, 2.0], {}, r"expected a matrix \[n, d\].*got shape \[2\]"),
        (np.zeros((0, 3)), {}, r"got shape \[0, 3\]"),
        ([[1.0], [np.nan], [np.inf]], {}, "NaN or infinity in 2 of 3 rows"),
        ([[1.0], [2.0]], {"n_clusters": (0, 1)}, r"whole numbers >= 1, got \[0, 1\]"),
        ([[1.0], [2.0]], {"n_clusters": ()}, r"whole numbers >= 1, got \[\]"),
        ([[1.0], [2.0]], {"sample_weight": [1.0, 0.0]}, "expected 2 positive finite numbers"),
        ([[1.0], [2.0]], {"sample_weight": [1.0]}, r"expected 2 positive finite numbers, got shape \[1\]"),
    ],
)
def test_bad_input_is_named(X, arguments, message):
    with pytest.raises(ValueError, match=message):
        sweep_kmeans(X, **arguments)


def test_index_of_a_k_that_was_not_fitted():
    sweep = sweep_kmeans(blobs(2), (2, 4))
    assert sweep.index(4) == 1
    with pytest.raises(ValueError, match=r"fitted n_clusters \[2, 4\], got 3"):
        sweep.index(3)


def test_assign_equals_the_sweep_and_the_definition():
    rows = blobs(5, spread=1.0)
    sweep = sweep_kmeans(rows, (5,))
    labels, distances = assign(rows, sweep.centers[0])
    np.testing.assert_array_equal(labels, sweep.labels[0])
    assert distances.sum() == pytest.approx(slow_sse(rows, sweep.centers[0]), rel=1e-6)
    with pytest.raises(ValueError, match=r"expected shape \[K, 8\], got \[5, 7\]"):
        assign(rows, sweep.centers[0][:, :7])


def test_greedy_start_takes_one_row_of_each_far_blob():
    rows = np.repeat(1000 * np.eye(4, dtype=np.float32), 50, axis=0)
    rows += np.random.default_rng(0).random(rows.shape, dtype=np.float32)
    chosen = greedy_kmeans_plusplus(rows, np.ones(len(rows)), np.random.default_rng(0).random((4, 2)))
    assert sorted(chosen // 50) == [0, 1, 2, 3]


def test_distinct_rows_are_counted_up_to_a_limit():
    rows = np.array([[0, 0], [0, 1], [0, 0], [1, 1]], np.float32)
    assert [count_distinct_rows(rows, limit) for limit in (1, 2, 3, 9)] == [1, 2, 3, 3]
