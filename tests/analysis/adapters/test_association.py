"""How far gates follow groups, against slow references."""

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from analysis.adapters.association import gate_association


def test_nmi_and_variance_agree_with_slow_references():
    gates = np.random.default_rng(0).dirichlet(np.ones(3), (80, 2))
    labels = np.random.default_rng(1).integers(0, 4, 80)
    found = gate_association(gates, labels, n_permutations=19)
    for m in range(2):
        expected = normalized_mutual_info_score(labels, gates[:, m].argmax(axis=1))
        assert found.modules[m].nmi == pytest.approx(expected)
        total = np.square(gates[:, m] - gates[:, m].mean(axis=0)).sum()
        within = sum(
            np.square(gates[labels == c, m] - gates[labels == c, m].mean(axis=0)).sum() for c in np.unique(labels)
        )
        assert found.modules[m].variance_explained == pytest.approx(1 - within / total)


def test_association_is_found_where_the_strongest_expert_never_changes():
    leaning = np.tile([0.7, 0.3], (100, 1, 1))
    labels = np.arange(100) % 2
    leaning[labels == 1] = [0.6, 0.4]
    found = gate_association(leaning, labels, n_permutations=99)
    assert found.nmi == 0
    assert found.variance_explained == pytest.approx(1)
    assert found.p_value == pytest.approx(0.01)


def test_one_group_has_no_association():
    with pytest.raises(ValueError, match="at least two groups"):
        gate_association(np.ones((3, 1, 2)), np.zeros(3, int))
