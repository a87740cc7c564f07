"""Rules that read N off a curve."""

import numpy as np
import pytest

from analysis.clusters.choice.elbow_rules import RULES, l_method_corners
from analysis.clusters.kmeans import ClusterSweep, sweep_kmeans
from tests.analysis.clusters.choice.test_selection import blobs


def sweep_of(inertia: list[float]) -> ClusterSweep:
    """A sweep with a curve of one's own and nothing behind it."""
    ks = tuple(range(1, len(inertia) + 1))
    labels = np.zeros((len(ks), 100), np.int32)
    return ClusterSweep(ks, np.array(inertia), tuple(np.zeros((k, 1), np.float32) for k in ks), labels, (1,) * len(ks))


CORNER_AT_4 = [100.0, 75, 50, 25, 24, 23, 22, 21, 20]


@pytest.mark.parametrize("rule", ["l_method_linear", "second_difference", "kneed"])
def test_rules_find_the_corner_of_two_straight_lines(rule: str):
    scores = RULES[rule](np.zeros((100, 1), np.float32), sweep_of(CORNER_AT_4))
    assert np.argmax(scores) + 1 == 4


def test_l_method_finds_where_the_share_removed_by_a_cluster_falls():
    curve = [100 * 0.6 ** min(k, 4) * 0.95 ** max(k - 4, 0) for k in range(12)]  # a factor .6 up to K=5, then .95
    assert np.argmax(RULES["l_method"](np.zeros((100, 1), np.float32), sweep_of(curve))) + 1 == 5


@pytest.mark.parametrize("rule", ["calinski_harabasz", "silhouette"])
def test_rules_from_scikit_learn_agree_with_it(rule: str):
    from sklearn import metrics

    rows, _ = blobs(3)
    sweep = sweep_kmeans(rows, range(1, 6))
    scores = RULES[rule](rows, sweep)
    function = {"calinski_harabasz": metrics.calinski_harabasz_score, "silhouette": metrics.silhouette_score}[rule]
    assert scores[0] == -np.inf
    np.testing.assert_allclose(scores[1:], [function(rows, labels) for labels in sweep.labels[1:]], rtol=1e-4)


def test_corners_do_not_depend_on_where_the_sweep_ends():
    corner = [100 * 0.6 ** min(k, 4) * 0.95 ** max(k - 4, 0) for k in range(20)]
    assert l_method_corners(sweep_of(corner)).tolist() == [5] * 11
    bend = [100 / k for k in range(1, 21)]  # without a corner of its own
    corners = l_method_corners(sweep_of(bend))
    assert corners.max() > corners.min()
    best = 1 + np.argmax(RULES["l_method"](np.zeros((100, 1), np.float32), sweep_of(bend)))
    assert best == np.median(corners)
