"""Words that say nothing: repeat rates by hand, and function words of real text."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.clusters.interpretation import top_terms
from analysis.text.terms import stop_words as module
from analysis.text.terms.stop_words import repeat_rates, stop_words
from analysis.text.words import words


def test_repeat_rates_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_OCCURRENCES", 3)
    texts = ["red and blue", "red and green", "sea and green", "and"]
    left, right = repeat_rates(texts, ["and", "blue", "green", "red", "sea"])
    assert left.tolist() == pytest.approx([1 / 3, 1, 1, 1, 1])  # red red sea: one of three pairs
    assert right.tolist() == pytest.approx([1 / 3, 1, 1, 1, 1])  # blue green green
    assert repeat_rates([], []).shape == (2, 0)


def test_the_least_rate_of_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one pattern the words have the same neighbours; in the other texts "the" has not."""
    monkeypatch.setattr(module, "MIN_OCCURRENCES", 3)
    texts = ["see the sea"] * 3 + ["red the one", "new the two", "old the six"]
    terms = sorted(set(" ".join(texts).split()))
    place = terms.index("the")
    assert repeat_rates(texts, terms)[:, place].tolist() == pytest.approx([0.2, 0.2])
    assert repeat_rates(texts, terms, [0, 0, 0, 1, 1, 1])[:, place].tolist() == [0, 0]


def test_a_word_of_one_group_alone_is_its_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = np.array([[0.05, 0.05, 0.01], [0.05, 0.05, 0.01]])
    monkeypatch.setattr(module, "repeat_rates", lambda *_: rates)
    shares = np.array([[0.5, 0.5, 0.5], [0.2, 0.0, 0.0]])
    assert stop_words([], ["about5", "syndrome", "x"], [0, 1], shares).tolist() == [True, False, True]
    assert stop_words([], ["about5", "syndrome", "x"]).tolist() == [False, False, True]


def test_words_of_the_english_list_are_stop_words_at_higher_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = np.array([[0.2, 0.2, 0.4], [0.2, 0.2, 0.4]])
    monkeypatch.setattr(module, "repeat_rates", lambda *_: rates)
    terms, shares = ["many", "clips", "amount"], np.array([[0.5, 0.5, 0.5], [0.0, 0.0, 0.0]])
    assert stop_words([], terms, [0, 1], shares).tolist() == [True, False, False]
    assert stop_words([], terms).tolist() == [True, False, False]


def test_function_words_stand_between_ever_other_words(shared_corpora: Path) -> None:
    names = ("dolly15k", "medquad", "gsm8k", "legalbench")
    tables = [pl.read_parquet(shared_corpora / f"{name}_test.parquet").head(300) for name in names]
    texts = pl.concat([table.select(text=pl.concat_str("instruction", "output", separator=" ")) for table in tables])
    documents = [set(document) for document in words(texts["text"])]
    terms = sorted(set().union(*documents))
    widespread = {term for term in terms if sum(term in document for document in documents) > 60}
    found = {terms[i] for i in np.flatnonzero(stop_words(texts["text"], terms))} & widespread
    assert {"and", "in", "to", "was", "he", "that", "of", "is"} <= found
    assert found.isdisjoint({"syndrome", "disease", "genetic", "treatment", "contract", "party", "people", "symptoms"})
    labels = np.repeat(range(4), [len(table) for table in tables])
    for shown in (top_terms(texts["text"], labels), top_terms(texts["text"], np.zeros(len(labels), int))):
        assert {"and", "in", "to", "was", "he", "that", "of", "is"}.isdisjoint(shown["term"])
