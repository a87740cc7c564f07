"""Agreement of clusterings of two halves."""

import numpy as np

from analysis.clusters.choice.stability import half_split_agreement
from tests.analysis.clusters.choice.test_selection import blobs


def test_halves_agree_on_blobs_and_not_on_a_cloud():
    assert half_split_agreement(blobs(3)[0], 3) > 0.99
    assert half_split_agreement(np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32), 6) < 0.5
    assert np.isnan(half_split_agreement(np.eye(4, dtype=np.float32), 3))
