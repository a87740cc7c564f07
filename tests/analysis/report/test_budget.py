"""Whether a run spent enough for a verdict."""

import pytest

from analysis.report import ReportInputs
from analysis.report.budget import LEAST_HELD_OUT_DOCUMENTS, LEAST_SEEDS, LEAST_STEPS, Spent, spent
from tests.analysis.report.small_reports import EMPTY


@pytest.mark.parametrize(
    ("steps", "documents", "seeds", "short"),
    [
        (LEAST_STEPS, LEAST_HELD_OUT_DOCUMENTS, LEAST_SEEDS, ()),
        (LEAST_STEPS - 1, LEAST_HELD_OUT_DOCUMENTS, LEAST_SEEDS, ("199 of at least 200 steps",)),
        (LEAST_STEPS, LEAST_HELD_OUT_DOCUMENTS - 1, LEAST_SEEDS, ("199 of at least 200 held-out documents",)),
        (LEAST_STEPS, LEAST_HELD_OUT_DOCUMENTS, LEAST_SEEDS - 1, ("2 of at least 3 seeds",)),
        (None, None, LEAST_SEEDS, ("an unknown number of at least 200 steps",
                                   "an unknown number of at least 200 held-out documents")),
    ],
)  # fmt: skip
def test_what_is_too_little_for_a_verdict(
    steps: int | None, documents: int | None, seeds: int, short: tuple[str, ...]
) -> None:
    assert Spent(steps, 1000, seeds, 1.0, documents).shortfalls == short


def test_what_a_run_spent_is_read_from_its_tables(inputs: ReportInputs):
    assert spent(inputs) == Spent(1000, 2_048_000, 1, 783.0, 200)
    assert spent(EMPTY) == Spent(None, None, None, None, None)
