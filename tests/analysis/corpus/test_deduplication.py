"""Shingles, near duplicates and decontamination against slow, obvious twins on real text."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.corpus import deduplication
from analysis.corpus.deduplication import CONTENT_SHARE, TEMPLATE_DOCUMENTS, near_duplicates
from analysis.corpus.one_letter import one_letter_similarity
from analysis.text.shingles import shingles
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
        start, weight = end, 0
        while start > 0 and weight < 6 * size:
            start -= 1
            weight += tokens[start][1]
        if weight >= 6 * size:
            found.add(tuple(token for token, _ in tokens[start:end]))
    return found or ({tuple(token for token, _ in tokens)} if tokens else set())


def reference_jaccard(left: set[tuple[str, ...]], right: set[tuple[str, ...]]) -> float:
    return len(left & right) / len(left | right) if left | right else 0.0


def in_batches(texts: list[str], size: int = 64) -> Callable[[], Iterator[pl.DataFrame]]:
    table = pl.DataFrame({"row": range(len(texts)), "text": texts}, schema={"row": pl.UInt32, "text": pl.String})
    table = table.with_columns(prompt=pl.lit(""))  # all of it is the answer
    return lambda: iter(table.iter_slices(size))


def ranks(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.uint32)


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
        for kept in set(range(row)) - dropped:
            if reference_jaccard(content[kept], content[row]) < CONTENT_SHARE * threshold:
                continue
            alike = reference_jaccard(every[kept], every[row]) >= threshold
            if alike or one_letter_similarity(texts[kept], texts[row]) >= threshold:
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


def test_near_duplicates_do_not_depend_on_what_is_kept_in_memory(
    shared_corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = pl.read_parquet(shared_corpora / "medquad_train.parquet")["output"][:1500].to_list()
    rank = np.arange(len(texts), dtype=np.uint32)
    found = near_duplicates(in_batches(texts, 200), rank, 0.8)
    assert len(found) > 10
    monkeypatch.setattr(deduplication, "KEPT_SHINGLES", 1000)
    assert near_duplicates(in_batches(texts, 200), rank, 0.8).equals(found)


def test_of_a_large_corpus_evenly_spaced_records_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deduplication, "COUNTED_RECORDS", 4)
    assert [deduplication.step_between_counted(n) for n in (0, 4, 5, 9)] == [1, 1, 2, 3]
    every = shingles(pl.Series(["one two three", "four five six seven", "eight nine ten"]), 3, punctuation=True)
    counts = np.zeros(1 << 16, np.uint8)
    deduplication.count_shingles(np.array([10, 11, 12]), every, 2, counts)
    assert counts.sum() == 2
    assert all(counts[every[i] % np.uint64(1 << 16)].all() for i in (0, 2))
