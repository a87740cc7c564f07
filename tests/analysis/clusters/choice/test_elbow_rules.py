"""Rules that read N off a curve."""

import numpy as np

from analysis.clusters.choice.elbow_rules import l_method, l_method_corners
from analysis.clusters.kmeans import ClusterSweep


def sweep_of(inertia: list[float]) -> ClusterSweep:
    """A sweep with a curve of one's own and nothing behind it."""
    ks = tuple(range(1, len(inertia) + 1))
    labels = np.zeros((len(ks), 100), np.int32)
    return ClusterSweep(ks, np.array(inertia), tuple(np.zeros((k, 1), np.float32) for k in ks), labels, (1,) * len(ks))


def test_l_method_finds_where_the_share_removed_by_a_cluster_falls():
    curve = [100 * 0.6 ** min(k, 4) * 0.95 ** max(k - 4, 0) for k in range(12)]  # a factor .6 up to K=5, then .95
    assert np.argmax(l_method(sweep_of(curve))) + 1 == 5


def test_corners_do_not_depend_on_where_the_sweep_ends():
    corner = [100 * 0.6 ** min(k, 4) * 0.95 ** max(k - 4, 0) for k in range(20)]
    assert l_method_corners(sweep_of(corner)).tolist() == [5] * 11
    bend = [100 / k for k in range(1, 21)]  # without a corner of its own
    corners = l_method_corners(sweep_of(bend))
    assert corners.max() > corners.min()
    best = 1 + np.argmax(l_method(sweep_of(bend)))
    assert best == np.median(corners)
