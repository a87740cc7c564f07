"""Batches that a thread collates ahead."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from hydralora.data import Batch, PlannedBatches, collate, plan_steps, tokenise
from tests.hydralora.small import small_documents, small_tokenizer

DOCUMENTS = tokenise(small_documents(), small_tokenizer())
PLAN = plan_steps(DOCUMENTS.lengths, tokens_per_step=60, micro_batches_per_step=4, max_steps=5, seed=0)


def collated(rows: Sequence[dict[str, Any]]) -> Batch:
    return collate(rows, 256)


@pytest.mark.parametrize(
    ("processes", "order"),
    [(1, range(20)), (1, range(7, 20)), (2, range(0, 20, 2)), (2, range(1, 20, 2)), (4, range(3, 20, 4)), (1, (9, 3))],
    ids=["all", "a run that goes on", "first of two", "second of two", "last of four", "any order"],
)
def test_batches_are_those_of_the_plan(processes: int, order: Sequence[int]) -> None:
    batches = PlannedBatches(DOCUMENTS, PLAN, collated, processes)
    for index in order:
        expected = collated(DOCUMENTS.rows(PLAN.micro_batches[index]))
        got = batches[index]
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_the_next_step_is_collated_in_a_thread() -> None:
    threads: list[str] = []

    def watched(rows: Sequence[dict[str, Any]]) -> Batch:
        threads.append(threading.current_thread().name)
        return collated(rows)

    batches = PlannedBatches(DOCUMENTS, PLAN, watched)
    for index in range(20):
        batches[index]
    assert len(threads) == 20  # none twice
    assert sum(name.startswith("batches") for name in threads) == 19


def test_an_error_in_the_thread_reaches_the_reader() -> None:
    def failing(rows: Sequence[dict[str, Any]]) -> Batch:
        if threading.current_thread() is not threading.main_thread():
            raise OSError("the file is gone")
        return collated(rows)

    batches = PlannedBatches(DOCUMENTS, PLAN, failing)
    batches[0]
    with pytest.raises(OSError, match="the file is gone"):
        batches[1]
