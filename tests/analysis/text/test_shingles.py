"""Shingles against sets of token windows."""

import itertools

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.text.shingles import jaccard, shingles
from tests.analysis.corpus.test_deduplication import reference_jaccard, reference_shingles


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(alphabet="aB1_ .,+éÉ日本，ทนี่้\u0301\n\t", max_size=30), min_size=1, max_size=5),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
def test_shingles_are_the_sets_of_token_windows(
    texts: list[str], size: int, punctuation: bool, by_length: bool
) -> None:
    found = shingles(pl.Series(texts), size, punctuation=punctuation, by_length=by_length)
    expected = [reference_shingles(text, size, punctuation, by_length) for text in texts]
    assert [len(found[i]) for i in range(len(texts))] == [len(windows) for windows in expected]
    repeated = shingles(pl.Series(texts), size, punctuation=punctuation, by_length=by_length, distinct=False)
    assert [set(repeated[i]) for i in range(len(texts))] == [set(found[i]) for i in range(len(texts))]
    for (i, left), (j, right) in itertools.combinations(enumerate(expected), 2):
        assert jaccard(found[i], found[j]) == pytest.approx(reference_jaccard(left, right))


def test_fullwidth_marks_separate_and_blanks_do_not_count() -> None:
    texts = pl.Series(["河水，大海。", "河水大海", "河水\u3000大海", "河水, 大海."])
    words = shingles(texts, 2, punctuation=False)
    assert all(jaccard(words[0], words[i]) == 1 for i in range(4))
    marks = shingles(texts, 2, punctuation=True)
    assert jaccard(marks[0], marks[1]) < 1
    assert jaccard(marks[1], marks[2]) == 1


def test_the_two_letters_i_of_turkish_are_one() -> None:
    texts = pl.Series(["KISA VE İYİ BİR YAZI", "kısa ve iyi bir yazı"])
    found = shingles(texts, 3, punctuation=True)
    assert jaccard(found[0], found[1]) == 1


def test_operators_tell_code_apart_only_with_punctuation() -> None:
    codes = pl.Series(["a + b", "a - b"])
    with_marks, words = (shingles(codes, 3, punctuation=marks) for marks in (True, False))
    assert jaccard(with_marks[0], with_marks[1]) == 0
    assert jaccard(words[0], words[1]) == 1
