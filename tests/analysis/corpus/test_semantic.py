"""Documents that say the same in other words: what counts as the same, which one is kept, and what is refused."""

import zlib

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from analysis.corpus import semantic
from analysis.corpus.cleaning import CleanConfig, clean
from analysis.corpus.semantic import SemanticSearch
from analysis.sources import RECORD_SCHEMA

MEANINGS = {
    "How do I boil an egg?": 0,
    "What is the way to cook an egg in water?": 0,
    "Boil 3 eggs.": 0,
    "Boil 4 eggs.": 0,
    "Who wrote it?": 1,
}


def embed(texts: pl.Series) -> NDArray[np.float32]:
    """One direction for each meaning, and other texts apart from all."""
    return np.eye(1000, dtype=np.float32)[[MEANINGS.get(text, 2 + zlib.crc32(text.encode()) % 998) for text in texts]]


def cleaned(*rows: tuple[str, str, str]) -> dict[str, str]:
    """Dropped prompt -> prompt of the document kept, of (prompt, completion, split)."""
    records = pl.DataFrame(
        [{"source": "a", "prompt": p, "completion": c, "split": s, "task": None, "licence": None, "origin": None}
         for p, c, s in rows], schema=RECORD_SCHEMA)  # fmt: skip
    config = CleanConfig(detect_language=False, near_duplicate_threshold=None, decontaminate=False)
    result = clean(records.lazy(), config, semantic=SemanticSearch(embed, 0.9))
    assert set(result.dropped["reason"]) <= {"semantic_duplicate"}
    assert sum(row["n"] for row in result.data_card["duplicates"]) == len(result.dropped)
    index = {row["document_id"]: row["prompt"] for row in result.documents.collect().to_dicts()}
    kept = [index[detail] for detail in result.dropped["detail"]]
    gone = [p for p, _, _ in rows if p not in index.values()]
    return dict(zip(gone, kept, strict=True))


EGG, COOK, THREE, FOUR, WHO = MEANINGS


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(EGG, "x", "train"), (WHO, "x", "train"), (COOK, "x", "train")], {COOK: EGG}),
        ([(EGG, "x", "train"), (COOK, "x", "test")], {EGG: COOK}),  # a leak: the held-out document stays
        ([(EGG, "x", "train"), (COOK, "y", "train")], {}),  # another answer
        ([(EGG, "x", "train"), (THREE, "x", "train"), (FOUR, "x", "train")], {}),  # other numbers
    ],
)
@pytest.mark.parametrize("block", [1, 2, 512])
def test_the_same_in_other_words(
    rows: list[tuple[str, str, str]], expected: dict[str, str], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic, "BLOCK", block)
    assert cleaned(*rows) == expected


def test_a_document_is_compared_with_those_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """B is like A and C is like B, but C is not like A: only B goes."""
    angles = {"A": 0.0, "B": 0.4, "C": 0.8}

    def turned(texts: pl.Series) -> NDArray[np.float32]:
        found = [angles.get(text, 0.0) for text in texts]
        return np.column_stack([np.cos(found), np.sin(found)]).astype(np.float32)

    monkeypatch.setattr(semantic, "BLOCK", 1)
    batches = [pl.DataFrame({"row": [i], "prompt": [name], "completion": "x"}) for i, name in enumerate(angles)]
    pairs = semantic.semantic_duplicates(batches, SemanticSearch(turned, 0.9), np.arange(3, dtype=np.uint32))
    assert pairs.rows() == [(1, 0)]
    assert semantic.semantic_duplicates([], SemanticSearch(turned, 0.9), np.arange(0, dtype=np.uint32)).is_empty()


def test_a_threshold_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"semantic_duplicate_threshold must be in \(0, 1\], got 1.5"):
        SemanticSearch(embed, 1.5)
