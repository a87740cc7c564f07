"""Shares of sources, and orders of documents with them."""

import itertools
from collections import Counter

import pytest

from hydralora.data.mixing import mixed_order, source_shares

SIZES = {"law": 900, "maths": 90, "poems": 10}


def test_shares_by_size_temperature_weight_and_cap() -> None:
    assert source_shares(SIZES) == pytest.approx({"law": 0.9, "maths": 0.09, "poems": 0.01})
    even = source_shares(SIZES, temperature=1e9)
    assert even == pytest.approx(dict.fromkeys(SIZES, 1 / 3), abs=1e-6)
    assert source_shares({"a": 100, "b": 25}, temperature=2) == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    assert source_shares(SIZES, weights={"law": 0, "poems": 9}) == pytest.approx({"law": 0, "maths": 0.5, "poems": 0.5})
    assert source_shares(SIZES, cap=0.5) == pytest.approx({"law": 0.5, "maths": 0.45, "poems": 0.05})


def test_a_share_lifted_above_the_cap_is_cut_too() -> None:
    assert source_shares(SIZES, cap=0.4) == pytest.approx({"law": 0.4, "maths": 0.4, "poems": 0.2})
    assert source_shares(SIZES, cap=1 / 3) == pytest.approx(dict.fromkeys(SIZES, 1 / 3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": {"lore": 2.0}}, "mixing_weights: expected sources among law, maths, poems, got lore"),
        ({"weights": dict.fromkeys(SIZES, 0.0)}, "a weight of more than 0"),
        ({"cap": 0.2}, "mixing_cap: expected at least 1 / 3"),
        ({"cap": 0.4, "weights": {"law": 0.0}}, "mixing_cap: expected at least 1 / 2"),
    ],
)
def test_refusals(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source_shares(SIZES, **given)  # type: ignore[arg-type]


def test_an_order_has_the_shares_and_reads_each_document_before_one_again() -> None:
    sources = [name for name, size in SIZES.items() for _ in range(size)]
    order = list(itertools.islice(mixed_order(sources, {"law": 0.2, "maths": 0.5, "poems": 0.3}, seed=3), 4000))
    counts = Counter(sources[document] for document in order)
    assert [counts[name] / 4000 for name in SIZES] == pytest.approx([0.2, 0.5, 0.3], abs=0.03)
    for name, size in SIZES.items():
        first = [document for document in order if sources[document] == name][:size]
        assert len(set(first)) == len(first)
    assert order == list(itertools.islice(mixed_order(sources, {"law": 0.2, "maths": 0.5, "poems": 0.3}, seed=3), 4000))
    assert order != list(itertools.islice(mixed_order(sources, {"law": 0.2, "maths": 0.5, "poems": 0.3}, seed=4), 4000))


def test_a_source_of_share_zero_is_not_read() -> None:
    order = itertools.islice(mixed_order(["a", "b", "a"], {"a": 0.0, "b": 1.0}, seed=0), 50)
    assert set(order) == {1}


def test_a_share_of_a_source_without_documents_is_refused() -> None:
    with pytest.raises(ValueError, match="got none of b"):
        next(mixed_order(["a", "a"], {"a": 0.5, "b": 0.5}, seed=0))
