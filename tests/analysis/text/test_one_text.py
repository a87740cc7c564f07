"""One text at a time gives what tables of texts give."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.text.normalisation import normalised, normalised_text
from analysis.text.words import words, words_of

ODD = [
    "",
    "\n\n  indented\r\nline \t\n\u2028end \u00a0\n\u3000",
    "e\u0301\ufeff\u200b\x07x\x85\x1cy",
    "Ünïcode WORDS 東京 x_y _ a b2",
    "A" * 70 + " b " * 40,
]
TEXT = st.one_of(st.text(), st.text("aB \n\r\t_9\u0130\u03a3\u00a0\u0301.", max_size=80))


@pytest.mark.parametrize("text", ODD)
def test_odd_texts(text: str) -> None:
    assert_same(text)


@given(TEXT)
def test_any_text(text: str) -> None:
    assert_same(text)


def assert_same(text: str) -> None:
    assert normalised_text(text) == pl.select(normalised(pl.lit(text))).item()
    for tokens in ("unicode", "scikit-learn"):
        assert words_of(text, tokens) == next(words([text], tokens))
