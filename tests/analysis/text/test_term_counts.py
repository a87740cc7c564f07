"""Words and their counts against the regular expression that scikit-learn's vectorisers use."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.text.blocks import text_blocks
from analysis.text.term_counts import TermCounter, stack

WORD = re.compile(r"(?u)\b\w\w+\b")


def reference(text: str) -> Counter[str]:
    return Counter(WORD.findall(text.lower()))


def counted(texts: list[str], block_bytes: int = 1 << 20) -> list[Counter[str]]:
    counter = TermCounter()
    counts = stack([counter.learn(block) for block in text_blocks(texts, block_bytes)])
    found = []
    for start, stop, n_tokens in zip(counts.indptr, counts.indptr[1:], counts.n_tokens, strict=False):
        terms = [counter.terms[i] for i in counts.indices[start:stop]]
        found.append(Counter(dict(zip(terms, counts.counts[start:stop].tolist(), strict=True))))
        assert found[-1].total() == n_tokens
    return found


# Words of every length around 8, 16 and 64 bytes, cut by everything that can cut them.
LETTERS = st.sampled_from(["a", "Z", "0", "_", "é", "É", "ß", "İ", "Σ", "ς", "ı", "K", "Ⱥ", "中", "ا", "𝒳", "𐐀", "ǅ"])
BREAKS = st.sampled_from([" ", "-", "\x00", "\x7f", "\n", "’", "—", "。", "\u0301", "\u200d", "🙂", "\u0307"])
TEXT = st.lists(
    st.one_of(st.text(LETTERS, min_size=1, max_size=80), st.text("abcXYZ019_", min_size=1, max_size=80), BREAKS)
).map("".join)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(TEXT, st.text()), max_size=6))
def test_counts_equal_the_regular_expression(texts: list[str]) -> None:
    assert counted(texts) == [reference(text) for text in texts]


def test_every_code_point_between_words() -> None:
    texts = ["".join(f"ab{chr(c)}cd{chr(c)}{chr(c)} " for c in range(low, low + 4096) if not 0xD800 <= c < 0xE000)
             for low in range(0, 0x110000, 4096)]  # fmt: skip
    assert counted(texts) == [reference(text) for text in texts]


def test_a_word_across_the_edge_of_every_64_bytes() -> None:
    texts = [" " * before + "Word" * length + "!" for before in range(66) for length in (1, 4, 5, 17, 33)]
    assert counted(texts) == [reference(text) for text in texts]


def test_words_of_the_same_first_bytes_are_different() -> None:
    words = ["a" * n for n in (2, 7, 8, 9, 15, 16, 17, 24, 25, 64, 1000)] + ["a" * 16 + "b", "a" * 24 + "b", "a_", "a0"]
    assert counted([" ".join(words)]) == [Counter(words)]


def test_the_table_grows() -> None:
    texts = [" ".join(f"word{i}" for i in range(start, start + 9000)) for start in range(0, 90_000, 9000)]
    assert counted(texts) == [reference(text) for text in texts]
    assert counted(texts, block_bytes=1) == [reference(text) for text in texts]


def test_known_terms_only() -> None:
    counter = TermCounter(["cat", "été", "a_very_long_term_indeed"])
    [block] = text_blocks(["Cat dog CAT", "ÉTÉ a_very_long_term_indeed", "", "dog"])
    counts = counter.count(block)
    assert counts.indptr.tolist() == [0, 1, 3, 3, 3]
    assert counts.indices.tolist() == [0, 1, 2]
    assert counts.counts.tolist() == [2, 1, 1]
    assert counts.n_tokens.tolist() == [3, 2, 0, 1]
    assert len(counter.terms) == 3


@pytest.mark.parametrize("vocabulary", [["cat", "cat"], ["Cat"], ["two words"], ["a"], [""]])
def test_a_damaged_vocabulary_is_refused(vocabulary: list[str]) -> None:
    with pytest.raises(ValueError, match="expected a vocabulary of different lower-case words; fit or load"):
        TermCounter(vocabulary)


def test_fifty_megabytes_in_one_document() -> None:
    text = "The quick brown fox; " * 2_500_000
    assert counted([text]) == [Counter(dict.fromkeys(["the", "quick", "brown", "fox"], 2_500_000))]
