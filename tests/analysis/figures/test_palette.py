"""Colours and shapes of categories."""

import numpy as np
import polars as pl

from analysis.figures.clusters import elbow
from analysis.figures.palette import GREY, color, head_numbers, marker, method_numbers
from analysis.figures.style import short_names


def test_forty_clusters_are_told_apart_by_colour_and_shape() -> None:
    assert len({(color(i), marker(i)) for i in range(40)}) == 40


def test_neighbouring_clusters_differ_in_both() -> None:
    assert all(color(i) != color(i + 1) and marker(i) != marker(i + 1) for i in range(40))


def test_methods_keep_their_number_in_a_table_that_lacks_some() -> None:
    all_of_them = method_numbers(["ours", "lora", "base", "third"])
    assert all_of_them == {"ours": 0, "lora": 1, "base": GREY, "third": 2}
    assert method_numbers(["third", "new"], all_of_them) == {**all_of_them, "new": 3}


def test_no_method_but_the_base_model_is_grey() -> None:
    numbers = method_numbers([f"m{i}" for i in range(12)])
    assert len(set(numbers.values())) == 12
    assert all(number % 8 != GREY for number in numbers.values())


def test_heads_have_the_colours_of_their_clusters() -> None:
    assert head_numbers(["cluster-4-seed-0", "iid-0-seed-0", "cluster-4-seed-1"]) == [4, GREY, 4]
    assert head_numbers(["law", "code"]) == [0, 1]


def test_the_elbow_has_a_tick_wherever_it_is() -> None:
    ks = np.arange(1, 21)
    for n in range(1, 21):
        picture = elbow(pl.DataFrame({"n_clusters": ks, "inertia": 100.0 / ks}), {"num_clusters": n})
        ticks = [int(tick) for tick in picture.figure.axes[0].get_xticks()]
        assert n in ticks
        assert len(ticks) <= 12


def test_short_names_drop_what_all_share_and_are_cut() -> None:
    assert short_names(["packages/docstring", "packages/doctest", "all"], 15) == ["docstring", "doctest", "all"]
    assert short_names(["law/a", "code/b"], 15) == ["law/a", "code/b"]
    assert max(map(len, short_names(["a" * 90, "b"], 15))) <= 15
