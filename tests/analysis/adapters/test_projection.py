"""Submodules as points in the plane."""

import numpy as np
import pytest

from analysis.adapters.parts import submodules
from analysis.adapters.projection import distances, embed, gram
from tests.analysis.synthetic_run import lora_state


def test_points_of_one_shape_keep_their_distances_and_shapes_are_orthogonal():
    parts = submodules(lora_state(0, 0), "x")
    cosines = gram(parts)
    d = distances(cosines)
    same = [i for i, p in enumerate(parts) if p.matrix == "B" and p.module == "self_attn.q_proj"][:2]
    a, b = (parts[i].rows.ravel() / np.linalg.norm(parts[i].rows) for i in same)
    assert d[same[0], same[1]] == pytest.approx(np.linalg.norm(a - b), abs=1e-6)
    other = next(i for i, p in enumerate(parts) if p.module == "self_attn.v_proj" and p.matrix == "B")
    assert cosines[same[0], other] == 0


def test_tsne_is_deterministic_and_places_twins_together():
    parts = [s for seed in range(4) for s in submodules(lora_state(seed, 0), f"{seed}") if s.matrix == "A"]
    cosines = gram(parts + parts)
    points = embed(cosines, "t-SNE", random_state=3)
    np.testing.assert_array_equal(points, embed(cosines, "t-SNE", random_state=3))
    twins = np.linalg.norm(points[: len(parts)] - points[len(parts) :], axis=1)
    assert np.median(twins) < 0.1 * np.ptp(points, axis=0).max()
    with pytest.raises(ValueError, match="at least 5 points, got 2"):
        embed(np.eye(2), "t-SNE")


@pytest.mark.slow
def test_umap_is_deterministic():
    cosines = gram([s for part in range(3) for s in submodules(lora_state(0, part), f"{part}") if s.matrix == "A"])
    np.testing.assert_array_equal(embed(cosines, "UMAP", random_state=3), embed(cosines, "UMAP", random_state=3))
