"""Scores of HumanEval."""

import itertools

import pytest

from hydralora.harness.humaneval import pass_at_k


def test_pass_at_k_is_the_share_of_draws_with_a_success() -> None:
    for n, k in ((5, 1), (5, 3), (6, 6)):
        for passed in range(n + 1):
            draws = list(itertools.combinations([True] * passed + [False] * (n - passed), k))
            assert pass_at_k(n, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    with pytest.raises(ValueError, match="at least 10 samples, got 3"):
        pass_at_k(3, 1, 10)
