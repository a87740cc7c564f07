"""Plans and splits of any documents, beside brute force."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hydralora.data.batching import Indices, plan_steps, split_by_length, split_by_tokens

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=8).map(np.array)
PLANS = {
    "lengths": st.lists(st.integers(1, 40), min_size=3, max_size=20).map(np.array),
    "tokens_per_step": st.integers(1, 120),
    "micro_batches_per_step": st.integers(1, 3),
    "seed": st.integers(0, 5),
}


def padded(lengths: Indices, groups: list[Indices]) -> int:
    return sum(len(group) * int(lengths[group].max()) for group in groups)


def every_split(documents: list[int], num_groups: int) -> list[list[list[int]]]:
    """Each way to give every document to one of the groups, none of them empty."""
    choices = itertools.product(range(num_groups), repeat=len(documents))
    splits = [[[d for d, c in zip(documents, choice, strict=True) if c == g] for g in range(num_groups)]
              for choice in choices]  # fmt: skip
    return [split for split in splits if all(split)]


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS.filter(lambda lengths: len(lengths) <= 6), data=st.data())
def test_no_split_at_all_pads_less(lengths: Indices, data: st.DataObject) -> None:
    num_groups = data.draw(st.integers(1, min(3, len(lengths))))
    groups = split_by_length(lengths, np.arange(len(lengths)), num_groups)
    best = min(padded(lengths, [np.array(g) for g in split])
               for split in every_split(list(range(len(lengths))), num_groups))  # fmt: skip
    assert padded(lengths, groups) == best
    assert len(groups) == num_groups
    assert all(len(group) for group in groups)
    assert sorted(np.concatenate(groups)) == list(range(len(lengths)))


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, data=st.data())
def test_the_fullest_row_is_within_the_bound_of_longest_first(lengths: Indices, data: st.DataObject) -> None:
    # Graham (1969): the longest first is at most 4/3 - 1/(3m) of the best.
    num_groups = data.draw(st.integers(1, min(3, len(lengths))))
    groups = split_by_tokens(lengths, np.arange(len(lengths)), num_groups)
    fullest = max(int(lengths[group].sum()) for group in groups)
    best = min(max(int(lengths[g].sum()) for g in split)
               for split in every_split(list(range(len(lengths))), num_groups))  # fmt: skip
    assert fullest <= best * (4 / 3 - 1 / (3 * num_groups)) + 1e-9
    assert all(len(group) for group in groups)
    assert all(np.all(np.diff(group) > 0) for group in groups)  # documents keep their order
    assert sorted(np.concatenate(groups)) == list(range(len(lengths)))


@settings(max_examples=60, deadline=None)
@given(**PLANS, packed=st.booleans(), max_steps=st.integers(1, 8))
def test_each_step_has_just_enough_tokens_and_documents(
    lengths: Indices, tokens_per_step: int, micro_batches_per_step: int, seed: int, packed: bool, max_steps: int
) -> None:
    plan = plan_steps(
        lengths,
        tokens_per_step=tokens_per_step,
        micro_batches_per_step=micro_batches_per_step,
        max_steps=max_steps,
        seed=seed,
        packed=packed,
    )
    assert plan.num_steps == max_steps
    assert len(plan.micro_batches) == max_steps * micro_batches_per_step
    assert 0 <= plan.padding_share < 1
    assert not packed or plan.padding_share == 0
    for step, tokens in enumerate(plan.tokens_of_step):
        groups = plan.micro_batches[step * micro_batches_per_step :][:micro_batches_per_step]
        sizes = lengths[np.concatenate(groups)]
        assert all(len(group) for group in groups)
        assert sizes.sum() == tokens >= tokens_per_step
        if len(sizes) > micro_batches_per_step:  # without its last document, a step had too few tokens
            assert sizes.sum() - sizes.max() < tokens_per_step


@settings(max_examples=60, deadline=None)
@given(**PLANS, longer=st.integers(1, 4))
def test_a_longer_budget_has_the_shorter_plan_as_its_beginning(
    lengths: Indices, tokens_per_step: int, micro_batches_per_step: int, seed: int, longer: int
) -> None:
    def plan(max_steps: int) -> list[list[int]]:
        found = plan_steps(
            lengths,
            tokens_per_step=tokens_per_step,
            micro_batches_per_step=micro_batches_per_step,
            max_steps=max_steps,
            seed=seed,
        )
        return [batch.tolist() for batch in found.micro_batches]

    assert plan(3 + longer)[: 3 * micro_batches_per_step] == plan(3)


@settings(max_examples=60, deadline=None)
@given(**PLANS, share=st.floats(0.1, 3))
def test_the_budget_in_tokens_ends_with_the_step_that_spends_it(
    lengths: Indices, tokens_per_step: int, micro_batches_per_step: int, seed: int, share: float
) -> None:
    budget = max(1, int(share * lengths.sum()))
    plan = plan_steps(
        lengths,
        tokens_per_step=tokens_per_step,
        micro_batches_per_step=micro_batches_per_step,
        max_tokens=budget,
        seed=seed,
    )
    assert plan.tokens_of_step.sum() >= budget > plan.tokens_of_step[:-1].sum()
    # Each document is read equally often, up to one pass.
    counts = np.bincount(np.concatenate(plan.micro_batches), minlength=len(lengths))
    assert counts.max() - counts.min() <= 1
