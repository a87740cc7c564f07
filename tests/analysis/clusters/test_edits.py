"""Merged and split clusters of points on a line."""

import numpy as np
import pytest

from analysis.clusters.edits import edit_problem, edited_centers
from analysis.clusters.kmeans import assign

X = np.array([[0.0], [0.2], [1.0], [1.2], [1.2], [9.0], [9.4]], np.float32)
CENTERS = np.array([[0.1], [1.1333333], [9.2]], np.float32)


def test_a_merged_cluster_has_the_mean_of_its_documents():
    found = edited_centers(X, CENTERS, merge=[[1, 0]])
    assert found[:, 0].tolist() == pytest.approx([0.72, 9.2])
    assert assign(X, found)[0].tolist() == [0, 0, 0, 0, 0, 1, 1]


def test_a_split_cluster_has_parts_of_its_own_documents():
    found = edited_centers(X, CENTERS, split={2: 2})
    assert sorted(found[:, 0].tolist()) == pytest.approx([0.1, 1.1333333, 9.0, 9.4])
    assert found[:2].tolist() == CENTERS[:2].tolist()


def test_both_and_none():
    assert edited_centers(X, CENTERS).tolist() == CENTERS.tolist()
    assert len(edited_centers(X, CENTERS, merge=[[0, 1]], split={2: 2})) == 3


@pytest.mark.parametrize(
    ("merge", "split", "problem"),
    [
        ([[0, 3]], {}, r"expected clusters from 0 to 2, got \[3\]"),
        ([[0, 1], [1, 2]], {}, r"each cluster once, got \[1\]"),
        ([[0, 1]], {1: 2}, r"each cluster once, got \[1\]"),
        ([[0]], {}, "at least two clusters"),
        ([], {0: 1}, "at least two parts"),
        ([], {-1: 2}, "from 0 to 2"),
        ([], {0: 3}, "cluster 0 "),
    ],
)
def test_edits_that_cannot_be_made(merge, split, problem):
    with pytest.raises(ValueError, match=problem):
        edited_centers(X, CENTERS, merge, split)
    assert edit_problem(3, [[0, 1]], {2: 2}) is None
