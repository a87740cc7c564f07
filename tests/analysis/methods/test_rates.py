"""Rates to try: the grid grows until the best rate lies between worse ones."""

import math

import pytest

from analysis.methods.rates import best_rate, is_bracketed, next_rates


@pytest.mark.parametrize("best", [0.0005, 0.004, 0.008, 0.064])
def test_rates_grow_by_two_until_the_best_is_bracketed(best: float) -> None:
    tried: dict[float, float] = {}
    while asked := next_rates(tried, [0.004, 0.008]):
        tried |= {rate: abs(math.log2(rate / best)) for rate in asked}
    assert is_bracketed(tried)
    assert best_rate(tried) == best
    assert {round(math.log2(b / a), 6) for a, b in zip(sorted(tried), sorted(tried)[1:], strict=False)} == {1.0}


def test_a_loss_without_an_end_stops_and_one_that_diverged_is_the_worst() -> None:
    tried: dict[float, float] = {}
    while asked := next_rates(tried, [1.0], most=3):
        tried |= {rate: -rate for rate in asked}
    assert len(tried) == 4
    assert not is_bracketed(tried)
    assert best_rate({1.0: math.nan, 2.0: 5.0, 4.0: math.inf}) == 2.0
