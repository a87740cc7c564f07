"""Texts of every kind and every defect become the same blocks of bytes."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from analysis.text.blocks import PADDING, TextBlock, map_threads, text_blocks

TEXTS = ["one", "", "two words", "drei Wörter, ja", "x" * 200]


def contents(block: TextBlock) -> list[str]:
    assert block.data.size >= block.offsets[-1] + PADDING
    pairs = zip(block.offsets, block.offsets[1:], strict=False)
    return [block.data[start:end].tobytes().decode() for start, end in pairs]


@pytest.mark.parametrize(
    "texts",
    [
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS, dtype=object),
        pl.Series("text", TEXTS),
        pl.Series("text", TEXTS, dtype=pl.Categorical),
        pl.Series("text", [text.encode() for text in TEXTS]),
        pa.array(TEXTS),
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS, pa.string_view()),
        pa.array([text.encode() for text in TEXTS], pa.binary()),
        pa.array(TEXTS).dictionary_encode(),
        pa.chunked_array([TEXTS[:2], TEXTS[2:]]),
        pa.array(["before", *TEXTS, "after"]).slice(1, 5),
    ],
    ids=lambda texts: str(getattr(texts, "type", type(texts).__name__)),
)
@pytest.mark.parametrize("block_bytes", [1, 12, 1 << 20])
def test_every_container_of_text(texts, block_bytes: int) -> None:
    blocks = list(text_blocks(texts, block_bytes))
    assert [text for block in blocks for text in contents(block)] == TEXTS
    assert sum(block.n_null + block.n_invalid for block in blocks) == 0


def test_blocks_are_as_large_as_asked_for() -> None:
    sizes = [len(block.data[: block.offsets[-1]]) - block.offsets[0] for block in text_blocks(["abcd"] * 10, 12)]
    assert sizes == [12, 12, 12, 4]


def test_null_and_invalid_texts_are_counted_and_replaced() -> None:
    raw = [b"good", None, b"\xff\xfe bad", b"abc\xc3", "ends with é".encode(), b"nul\x00byte"]
    [block] = text_blocks(pa.array(raw, pa.binary()))
    assert (block.n_null, block.n_invalid) == (1, 2)
    assert contents(block) == ["good", "", "\ufffd\ufffd bad", "abc\ufffd", "ends with é", "nul\x00byte"]


def test_a_string_column_with_invalid_bytes_is_not_trusted() -> None:
    invalid = pa.array([b"ok", b"\xf0\x90", b"\xed\xa0\x80"], pa.binary())
    column = pa.StringArray.from_buffers(3, invalid.buffers()[1], invalid.buffers()[2])
    [block] = text_blocks(column)
    assert block.n_invalid == 2
    assert contents(block)[0] == "ok"


def test_lone_surrogates_are_counted_and_replaced() -> None:
    [block] = text_blocks(["fine", "half \ud83d pair"])
    assert block.n_invalid == 1
    assert contents(block)[1].startswith("half \ufffd")


def test_texts_with_contextual_capitals_are_lower_case() -> None:
    texts = ["ABC", "ΟΔΥΣΣΕΥΣ and ΣΟΦΟΣ", "DEF", "İstanbul", "Ghi"]
    [block] = text_blocks(texts)
    assert contents(block) == ["ABC", "οδυσσευς and σοφος", "DEF", "i̇stanbul", "Ghi"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (pl.Series("length", [1, 2]), "expected a column of text, got 'length' of type Int64; cast it to String"),
        (pa.array([1.5]), "expected a column of text, got Arrow type double; cast it to string"),
        ("one text", "expected a sequence of texts, got one str; wrap it in a list"),
        (["a", 3], "expected str, got int at position 1"),
        ([b"bytes"], "expected str, got bytes at position 0"),
    ],
)
def test_what_is_not_text_is_refused(texts, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        list(text_blocks(texts))


def test_nothing_gives_no_blocks() -> None:
    for empty in (  # type: ignore[var-annotated]
        [],
        pl.Series("text", [], dtype=pl.String),
        pa.array([], pa.string()),
        pa.chunked_array([], pa.string()),
    ):
        assert list(text_blocks(empty)) == []


@pytest.mark.parametrize("n_threads", ["1", "3"])
def test_map_threads_keeps_order_and_reads_ahead_a_little(monkeypatch: pytest.MonkeyPatch, n_threads: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", n_threads)
    read: list[int] = []

    def items():
        for i in range(100):
            read.append(i)
            yield i

    results = map_threads(lambda i: i * i, items())
    assert next(results) == 0
    assert len(read) <= int(n_threads) + 1
    assert list(results) == [i * i for i in range(1, 100)]


def test_map_threads_raises_what_the_function_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with pytest.raises(ZeroDivisionError):
        list(map_threads(lambda i: 1 // i, [1, 0, 1]))
