"""One colour and one shape for each method, cluster and expert, the same in every figure and on the page.

A cluster or an expert has the colour of its number. A method has the colour of its place among the methods of the
report. The base model is always grey.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#B8A900")
"""Okabe and Ito's palette without black and with a darker yellow, so that it is visible on light and dark paper."""

SHAPES = ("o", "s", "^", "D", "P")
"""Circle, square, triangle, diamond, cross. Five shapes and eight colours make 40 pairs before one repeats."""

BASE = "base"
"""Name of the base model in tables of methods."""

GREY = 6

PARTS = {"A": 4, "B": 5, "router": 7}
"""Part of an adapter -> its category: not those of the first methods, which stand in the same figures."""


def color(index: int) -> str:
    """The colour of category `index`."""
    return OKABE_ITO[index % len(OKABE_ITO)]


def marker(index: int) -> str:
    """The shape of category `index`, so that colour is never the only distinction."""
    return SHAPES[index % len(SHAPES)]


def head_numbers(heads: Sequence[str]) -> list[int]:
    """The category of each head of the breakdown: its cluster's ("cluster-3-seed-0"), then grey for heads of none.

    Without any cluster among the heads, it is the place among them.
    """
    found = [re.match(r"cluster-(\d+)\b", head) for head in heads]
    if not any(found):
        return list(range(len(heads)))
    return [GREY if match is None else int(match[1]) for match in found]


def method_numbers(methods: Iterable[str], known: Mapping[str, int] | None = None) -> dict[str, int]:
    """The category of each method.

    Args:
        methods: names, in the order of the report; a name may come twice.
        known: categories that are fixed already, such as those of the whole report.
    """
    numbers = dict(known or {})
    free = (i for i in range(1_000_000) if i % len(OKABE_ITO) != GREY and i not in set(numbers.values()))
    for method in dict.fromkeys(methods):
        if method not in numbers:
            numbers[method] = GREY if method == BASE else next(free)
    return numbers
