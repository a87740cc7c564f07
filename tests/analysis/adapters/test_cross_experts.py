"""Every expert on every group, against sums done by hand."""

import math

import polars as pl
import pytest

from analysis.adapters.cross_experts import cross_experts

SCHEMA = {"document_id": pl.String, "group": pl.String, "expert": pl.String, "loss": pl.Float64, "n_tokens": pl.Int64}
ROWS = [
    *(("1", "law", "law", 10.0, 10), ("1", "law", "code", 12.0, 10), ("1", "law", "maths", 14.0, 10)),
    *(("2", "code", "law", 30.0, 20), ("2", "code", "code", 20.0, 20), ("2", "code", "maths", 16.0, 20)),
]


def table(rows: list[tuple[str, str, str, float, int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def test_means_and_the_best_expert() -> None:
    found = cross_experts(table(ROWS))
    assert found is not None
    assert found.by_group["best"].to_list() == ["maths", "law"]
    assert found.by_group["others"].to_list() == pytest.approx([1.15, 1.3])
    assert found.n_best == 1
    # Law: 1.0 - 1.3 = -0.3; code: 1.0 - 1.15 = -0.15. Two documents: t = 12.706 with one degree of freedom.
    assert found.difference == pytest.approx(-0.225)
    assert found.high - found.difference == pytest.approx(12.7062 * 0.075, rel=1e-4)
    own = found.matrix.filter(pl.col("group") == pl.col("expert"))
    assert own["difference"].to_list() == [0.0, 0.0]


def test_a_document_without_an_answer_or_of_an_unknown_group_does_not_count() -> None:
    more = [*ROWS, ("3", "law", "law", 0.0, 0), ("4", "poems", "law", 9.0, 1)]
    found, plain = cross_experts(table(more)), cross_experts(table(ROWS))
    assert found is not None
    assert plain is not None
    assert (found.difference, found.n_documents) == (plain.difference, 2)


def test_equal_experts_tie_in_favour_of_the_own_one() -> None:
    found = cross_experts(table([("1", "law", e, 5.0, 5) for e in ("code", "law")]))
    assert found is not None
    assert found.by_group["best"].to_list() == ["law"]
    assert found.difference == 0.0
    assert math.isnan(found.high)  # one document has no interval


def test_one_expert_has_no_others() -> None:
    assert cross_experts(table([("1", "law", "law", 5.0, 5)])) is None
    assert cross_experts(table([])) is None


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="got no expert"):
        cross_experts(table(ROWS).drop("expert"))
