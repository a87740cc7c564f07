"""Comparing methods: hand-computed means, intervals that cover, pairs that are pairs."""

import numpy as np
import polars as pl
import pytest

from analysis.figures import png
from analysis.figures.comparison import compared_methods
from analysis.methods.comparison import compare_losses, compare_on_both, losses_by_source

MEANS = ("token", "task", "source")


def table(method: str, seed: int, losses: list[float], tokens: list[int], sources: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "method": method,
            "seed": seed,
            "source": sources,
            "document_id": [f"{i:04d}" for i in range(len(losses))],
            "loss": losses,
            "n_tokens": tokens,
        }
    )


def test_each_source_counts_the_same_and_seeds_are_averaged() -> None:
    sources, tokens = ["x", "x", "y"], [1, 3, 2]
    losses = pl.concat(
        [
            table("a", 0, [1.0, 7.0, 2.0], tokens, sources),  # x: 8 / 4 = 2, y: 2 / 2 = 1
            table("a", 1, [3.0, 9.0, 4.0], tokens, sources),  # x: 12 / 4 = 3, y: 4 / 2 = 2
            table("b", 0, [2.0, 10.0, 4.0], tokens, sources),  # x: 3, y: 2
            table("b", 1, [4.0, 12.0, 6.0], tokens, sources),  # x: 4, y: 3
        ]
    )
    result = compare_losses(losses, "b", resamples=10)
    assert result["method"].to_list() == ["a", "b"]
    assert result["loss"].to_list() == pytest.approx([2.0, 3.0])
    assert result["perplexity"].to_list() == pytest.approx([np.e**2, np.e**3])
    assert result["difference"].to_list() == [pytest.approx(-1.0), None]
    assert result.row(0)[1:3] == (2, 3)
    by_source = {(m, s): loss for m, s, loss in losses_by_source(losses).iter_rows()}
    assert by_source == pytest.approx({("a", "x"): 2.5, ("a", "y"): 1.5, ("b", "x"): 3.5, ("b", "y"): 2.5})


def test_difference_is_paired_and_its_interval_narrower_than_that_of_the_losses() -> None:
    random = np.random.default_rng(0)
    base = random.gamma(2.0, size=300)
    tokens, sources = [1] * 300, ["x"] * 150 + ["y"] * 150
    noise = 0.01 * random.standard_normal(300)
    losses = pl.concat(
        [table("a", 0, (base - 0.1 + noise).tolist(), tokens, sources), table("b", 0, base.tolist(), tokens, sources)]
    )
    a, b = compare_losses(losses, "b").iter_rows(named=True)
    assert a["difference_low"] < -0.1 < a["difference_high"]
    assert a["difference_high"] - a["difference_low"] < 0.01
    # The standard error of a mean of 300 draws of variance 2 is 0.082; the interval is about four of them wide.
    assert b["loss_high"] - b["loss_low"] == pytest.approx(4 * np.sqrt(2 / 300), rel=0.25)


def test_order_of_rows_does_not_matter() -> None:
    sources, tokens = ["x", "y", "y"], [1, 2, 3]
    losses = pl.concat(
        [table("a", 0, [1.0, 2.0, 3.0], tokens, sources), table("b", 0, [2.0, 1.0, 5.0], tokens, sources)]
    )
    mixed = losses.sample(fraction=1.0, shuffle=True, seed=3)
    assert compare_losses(mixed, "a", resamples=50).equals(compare_losses(losses, "a", resamples=50))


def test_tokens_tasks_and_sources_are_three_means_and_each_method_is_compared_on_its_own_seeds() -> None:
    sources, tokens, tasks = ["x", "x", "x", "y"], [1, 1, 2, 4], ["p", "p", "q", None]
    a, b = table("a", 0, [1.0, 3.0, 8.0, 4.0], tokens, sources), table("b", 0, [0.0, 0.0, 0.0, 0.0], tokens, sources)
    losses = pl.concat([a, b, a.with_columns(seed=pl.lit(1))]).with_columns(task=pl.Series(tasks * 3))
    first = losses.filter(seed=0)
    found = {mean: compare_losses(first, "b", mean_over=mean, resamples=10)["loss"][1] for mean in MEANS}
    assert found == pytest.approx({"token": 16 / 8, "task": (2 + 4 + 1) / 3, "source": (3 + 1) / 2})
    both = {row["method"]: row for row in compare_on_both(losses, "b", resamples=10).iter_rows(named=True)}
    assert (both["a"]["loss"], both["a"]["macro_loss"], both["a"]["n_seeds"]) == pytest.approx((2, 7 / 3, 1))
    assert (both["a"]["difference"], both["b"]["macro_difference"]) == (2.0, None)


def test_documents_of_one_task_do_not_pass_for_independent() -> None:
    """Ten tasks whose documents agree: the interval is that of ten values, not of a thousand documents."""
    of_task = np.random.default_rng(0).standard_normal(10)
    values, names = np.repeat(of_task, 100), np.repeat([f"task {i}" for i in range(10)], 100)
    a, b = (table(m, 0, v.tolist(), [1] * 1000, ["x"] * 1000) for m, v in (("a", values), ("b", 0 * values)))
    alone = pl.concat([a, b])
    tasks = alone.with_columns(task=pl.Series([*names, *names]))
    for mean in ("token", "task"):
        wide, narrow = (
            compare_losses(losses, "b", mean_over=mean).filter(method="a").row(0, named=True)
            for losses in (tasks, alone)
        )
        width = wide["difference_high"] - wide["difference_low"]
        assert width == pytest.approx(3.92 * of_task.std() / np.sqrt(10), rel=0.15)
        assert width > 5 * (narrow["difference_high"] - narrow["difference_low"])


def test_what_cannot_be_compared_is_said() -> None:
    a = table("a", 0, [1.0, 2.0], [1, 1], ["x", "x"])
    with pytest.raises(ValueError, match="reference among the methods a, got 'lora'"):
        compare_losses(a, "lora")
    other = table("b", 0, [1.0, 2.0], [1, 2], ["x", "x"])
    with pytest.raises(ValueError, match="same documents with the same seeds; b and a differ"):
        compare_losses(pl.concat([a, other]), "a")
    another_seed = table("b", 1, [1.0, 2.0], [1, 1], ["x", "x"])
    with pytest.raises(ValueError, match="b and a differ"):
        compare_losses(pl.concat([a, another_seed]), "a")


def test_figure_is_the_same_bytes_each_time() -> None:
    sources, tokens = ["x", "y"], [1, 2]
    losses = pl.concat([table("a", 0, [1.0, 2.0], tokens, sources), table("b", 0, [2.0, 1.0], tokens, sources)])
    compared = compare_losses(losses, "b", resamples=20).with_columns(n_parameters=pl.Series([1_500, 2_500_000]))
    first, second = compared_methods(compared, "b"), compared_methods(compared, "b")
    assert png(first.figure) == png(second.figure)
    assert "a (1.5 k)" in [label.get_text() for label in first.figure.axes[0].get_yticklabels()]
