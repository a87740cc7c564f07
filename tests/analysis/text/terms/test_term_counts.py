"""Words and their counts against the regular expression of scikit-learn, and against rules for every script."""

import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.text.blocks import text_blocks
from analysis.text.characters import Tokens
from analysis.text.terms.term_counts import TermCounter, stack
from analysis.text.words import words
from tests.analysis.plain_words import in_words

WORD = re.compile(r"(?u)\b\w\w+\b")
KINDS: tuple[Tokens, ...] = ("unicode", "scikit-learn")


def reference(text: str, tokens: Tokens = "unicode") -> Counter[str]:
    return Counter(in_words(text) if tokens == "unicode" else WORD.findall(text.lower()))


def counted(texts: list[str], block_bytes: int = 1 << 20, tokens: Tokens = "unicode") -> list[Counter[str]]:
    counter = TermCounter(tokens=tokens)
    counts = stack([counter.learn(block) for block in text_blocks(texts, block_bytes)])
    found = []
    for start, stop, n_tokens in zip(counts.indptr, counts.indptr[1:], counts.n_tokens, strict=False):
        terms = [counter.terms[i] for i in counts.indices[start:stop]]
        found.append(Counter(dict(zip(terms, counts.counts[start:stop].tolist(), strict=True))))
        assert found[-1].total() == n_tokens
    assert TermCounter(counter.terms, tokens).terms == counter.terms  # a saved vocabulary is read back
    return found


# Words of every length around 8, 16 and 64 bytes, cut by everything that can cut them.
LETTERS = st.sampled_from(
    [
        *"aZ0_éÉßİΣςıKȺ中文の語ー々タاנאबிকক",
        "𝒳",
        "𐐀",
        "ǅ",
        "𠀀",
        "ｶ",
        "ａ",
        "๒",
        *"ไทาะๅລເຳ",
        "ខ",
        "မ",
        "한",
        "ㄱ",
        "ㄅ",
    ]
)
BREAKS = st.sampled_from([*" -\x00\x7f\n’—。，・", "\u200b", "🙂"])
MARKS = st.sampled_from(
    [*"\u0301\u0307\u093f\u094d\u0bbf\u05b8\u064e\u0e34\u0e49\u17d2\u200d\u200c\u00ad\ufe0f\u0640\u0345"]
)
TEXT = st.lists(
    st.one_of(
        st.text(LETTERS, min_size=1, max_size=80),
        st.text("abcXYZ019_", min_size=1, max_size=80),
        st.text(st.one_of(LETTERS, MARKS), min_size=1, max_size=80),
        BREAKS,
        MARKS,
    )
).map("".join)


@pytest.mark.parametrize("tokens", KINDS)
@settings(max_examples=400, deadline=None)
@given(texts=st.lists(st.one_of(TEXT, st.text()), max_size=6))
def test_counts_equal_the_reference(texts: list[str], tokens: Tokens) -> None:
    assert counted(texts, tokens=tokens) == [reference(text, tokens) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("tokens", KINDS)
def test_every_code_point_between_words(tokens: Tokens) -> None:
    texts = ["".join(f"ab{chr(c)}cd{chr(c)}{chr(c)} " for c in range(low, low + 4096) if not 0xD800 <= c < 0xE000)
             for low in range(0, 0x110000, 4096)]  # fmt: skip
    assert counted(texts, tokens=tokens) == [reference(text, tokens) for text in texts]


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_has_the_words_of_scikit_learn(text: str) -> None:
    assert counted([text]) == counted([text], tokens="scikit-learn")


@settings(max_examples=200, deadline=None)
@given(TEXT, TEXT)
def test_a_blank_separates_what_is_counted(first: str, second: str) -> None:
    together, *alone = counted([f"{first} {second}", first, second])
    assert together == alone[0] + alone[1]


@settings(max_examples=200, deadline=None)
@given(st.text(LETTERS, min_size=1), st.sampled_from("\u200d\u200c\u00ad\u2060\ufe0f\u0640"))
def test_invisible_characters_inside_a_word_change_nothing(text: str, invisible: str) -> None:
    assert counted([invisible.join(text)]) == counted([text])


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT, max_size=4))
def test_words_in_order_are_the_words_counted(texts: list[str]) -> None:
    assert list(words(texts)) == [in_words(text) for text in texts]


@pytest.mark.parametrize("length", [1, 2, 3, 222, 223, 224, 225, 256, 257, 1000])
def test_a_run_without_blanks_of_any_length(length: int) -> None:
    text = "".join(chr(0x4E00 + i) for i in range(length))
    for before in ("", "ab " * 40):
        assert counted([before + text]) == [reference(before + text)]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("河水流向大海，鱼。", ["河水", "水流", "流向", "向大", "大海", "鱼"]),
        ("カメラを買う", ["カメ", "メラ", "ラを", "を買", "買う"]),
        ("ฝนตกที่บ้าน", ["ฝน", "นต", "ตก", "กที่", "ที่บ้า", "บ้าน"]),
        ("ຝົນຕົກ", ["ຝົນ", "ນຕົ", "ຕົກ"]),
        ("ភ្លៀង ធ្លាក់", ["ភ្លៀ", "លៀង", "ធ្លា", "លាក់"]),
        ("पानी की नदी", ["पानी", "की", "नदी"]),
        ("மழை பெய்கிறது", ["மழை", "பெய்கிறது"]),
        ("הַיֶּלֶד רָץ", ["הַיֶּלֶד", "רָץ"]),
        ("كِتَابٌ جَدِيد", ["كِتَابٌ", "جَدِيد"]),
        ("می‌روم", ["میروم"]),
        ("Tiếng nước chảy", ["tiếng", "nước", "chảy"]),
        (unicodedata.normalize("NFD", "Tiếng"), [unicodedata.normalize("NFD", "tiếng")]),
        ("강물이 흐른다", ["강물이", "흐른다"]),
        ("用Rust写第12章", ["用", "rust", "写第", "12", "章"]),
    ],
)
def test_words_of_many_scripts(text: str, terms: list[str]) -> None:
    assert next(words([text])) == terms


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
