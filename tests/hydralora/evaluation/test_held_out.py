"""Held-out losses and their intervals."""

import dataclasses

import numpy as np
import pytest

from hydralora.data import tokenise
from hydralora.evaluation import (
    DocumentLosses,
    bootstrap_interval,
    evaluate_documents,
    length_batches,
    paired_bootstrap,
)
from tests.hydralora.small import small_documents, small_model, small_tokenizer

LOSSES = DocumentLosses(
    loss_sums=np.array([2.0, 6.0, 1.0]), token_counts=np.array([1, 2, 1]), sources=("a", "a", "b"), clusters=(0, 1, 1)
)


def test_means_are_over_tokens() -> None:
    assert LOSSES.mean == 9 / 4
    assert LOSSES.means() == {"all": 9 / 4, "a": 8 / 3, "b": 1.0}
    groups = LOSSES.groups()
    assert groups["cluster", "1"].mean == 7 / 3
    assert groups["cluster", "1"].sources == ("a", "b")


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_batch_size_changes_nothing(batch_tokens: int) -> None:
    documents = tokenise([{**row, "cluster": 1} for row in small_documents(8)], small_tokenizer())
    expected = evaluate_documents(small_model(), documents, pad_token_id=256, batch_tokens=300)
    found = evaluate_documents(small_model(), documents, pad_token_id=256, batch_tokens=batch_tokens)
    np.testing.assert_allclose(found.loss_sums, expected.loss_sums, rtol=1e-5)
    assert found.token_counts.tolist() == [len(row["completion"]) + 1 for row in small_documents(8)]
    assert found.clusters == (1,) * 8


def test_length_batches_hold_the_budget() -> None:
    lengths = np.array([3, 10, 7, 2, 30])
    batches = length_batches(lengths, 20)
    assert [batch.tolist() for batch in batches] == [[4], [1, 2], [0, 3]]


def test_bootstrap_covers_the_mean() -> None:
    """Means of 200 normal samples: a 95% interval is about 2 * 1.96 / sqrt(200) wide."""
    generator = np.random.default_rng(0)
    losses = DocumentLosses(generator.normal(3, 1, 200), np.ones(200, dtype=int), ("a",) * 200)
    low, high = bootstrap_interval(losses)
    assert low < 3 < high
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.15)


def test_pairing_sees_a_difference_that_intervals_of_each_hide() -> None:
    generator = np.random.default_rng(0)
    sums = generator.normal(3, 1, 100)
    a = DocumentLosses(sums, np.ones(100, dtype=int), ("a",) * 100)
    b = dataclasses.replace(a, loss_sums=sums + generator.normal(0.05, 0.05, 100))
    assert bootstrap_interval(a)[1] > bootstrap_interval(b)[0]
    paired = paired_bootstrap(a, b)
    assert paired.difference == pytest.approx(a.mean - b.mean)
    assert paired.low < paired.difference < paired.high < 0
    assert paired.share_a_lower == 1


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="same documents in the same order"):
        paired_bootstrap(LOSSES, LOSSES.take(np.array([0, 2])))
