"""The plan of a run."""

import itertools

import numpy as np
import pytest

from hydralora.data.batching import plan_steps, split_by_length

LENGTHS = np.random.default_rng(0).integers(5, 60, size=50)


def padded(lengths: np.ndarray, groups: list[np.ndarray]) -> int:
    return sum(len(group) * int(lengths[group].max()) for group in groups)


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4])
def test_split_is_the_best_of_all_splits(num_groups: int) -> None:
    lengths = np.random.default_rng(num_groups).integers(1, 30, size=9)
    order = np.argsort(lengths, kind="stable")
    best = min(padded(lengths, np.split(order, cuts)) for cuts in itertools.combinations(range(1, 9), num_groups - 1))
    groups = split_by_length(lengths, np.arange(9), num_groups)
    assert padded(lengths, groups) == best
    assert sorted(np.concatenate(groups)) == list(range(9))
    assert len(groups) == num_groups


def test_an_epoch_reads_each_document_once() -> None:
    plan = plan_steps(LENGTHS, tokens_per_step=200, micro_batches_per_step=2, max_steps=20, seed=0)
    documents = np.concatenate(plan.micro_batches)
    steps = np.cumsum([sum(map(len, plan.micro_batches[i : i + 2])) for i in range(0, 40, 2)])
    whole = steps[np.searchsorted(steps, 50, side="right") - 1]
    assert len(set(documents[:whole])) == whole
    assert np.bincount(documents, minlength=50).max() - np.bincount(documents, minlength=50).min() <= 1


def test_budgets() -> None:
    def plan(**budget: float) -> int:
        tokens = plan_steps(LENGTHS, tokens_per_step=100, micro_batches_per_step=1, seed=0, **budget).tokens_of_step
        return int(tokens.sum())

    assert 1000 <= plan(max_tokens=1000) < 1000 + 100 + LENGTHS.max()
    assert LENGTHS.sum() <= plan(num_epochs=1) < LENGTHS.sum() + 100 + LENGTHS.max()
    with pytest.raises(ValueError, match="exactly one budget, got max_steps=1, max_tokens=5"):
        plan(max_steps=1, max_tokens=5)


def test_the_plan_follows_the_seed_alone() -> None:
    def documents(seed: int) -> list[int]:
        plan = plan_steps(LENGTHS, tokens_per_step=100, micro_batches_per_step=2, max_steps=9, seed=seed)
        return np.concatenate(plan.micro_batches).tolist()

    assert documents(1) == documents(1)
    assert documents(1) != documents(2)


def test_micro_batches_do_not_change_what_a_step_reads() -> None:
    one, four = (
        plan_steps(LENGTHS, tokens_per_step=200, micro_batches_per_step=n, max_steps=5, seed=0) for n in (1, 4)
    )
    for step in range(5):
        assert set(one.micro_batches[step]) == set(np.concatenate(four.micro_batches[4 * step : 4 * step + 4]))
    assert four.padding_share < one.padding_share / 3


def test_fewer_documents_than_micro_batches() -> None:
    with pytest.raises(ValueError, match=r"at least 8 documents .* got 3\. Lower gradient_accumulation_steps"):
        plan_steps(LENGTHS[:3], tokens_per_step=10, micro_batches_per_step=8, max_steps=1, seed=0)
