"""How the steps of a run are shared out between clusters."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hydralora.training.lorahub import apportion

WEIGHTS = st.lists(st.integers(1, 10_000), min_size=1, max_size=8)


@given(total=st.integers(1, 500), weights=WEIGHTS)
def test_shares_have_the_sum_and_nobody_goes_without(total: int, weights: list[int]) -> None:
    parts = apportion(total, weights)
    assert len(parts) == len(weights)
    assert min(parts) >= 1
    assert sum(parts) == max(total, len(weights))


@given(total=st.integers(1, 500), weights=WEIGHTS)
def test_a_share_is_within_one_of_its_proportion_where_none_is_raised_to_one(total: int, weights: list[int]) -> None:
    exact = [weight / sum(weights) * total for weight in weights]
    if min(exact) >= 1:
        assert all(abs(part - value) < 1 for part, value in zip(apportion(total, weights), exact, strict=True))


@given(total=st.integers(1, 500), weights=WEIGHTS)
def test_more_weight_never_gets_less(total: int, weights: list[int]) -> None:
    parts = apportion(total, sorted(weights))
    assert all(few <= many + 1 for few, many in itertools.pairwise(parts))
