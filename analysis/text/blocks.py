"""Turns text columns of any supported type into blocks of plain bytes for the kernels. Invalid text is repaired."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

Texts: TypeAlias = "pl.Series | pa.Array | pa.ChunkedArray | Sequence[str]"
Item = TypeVar("Item")
Result = TypeVar("Result")

# Large enough to amortise a call, small enough that a block and its results stay in the cache.
BLOCK_BYTES = 4 << 20
# Number of readable bytes that the kernels need after the last document.
PADDING = 80


@dataclass(frozen=True)
class TextBlock:
    """Consecutive documents as UTF-8.

    Attributes:
        data: uint8, readable for at least `PADDING` bytes after the last document.
        offsets: int64 [n_documents + 1]; document i is `data[offsets[i] : offsets[i + 1]]`.
        n_null: number of documents that were null; they are now empty.
        n_invalid: number of documents that were not valid UTF-8; they now have replacement characters.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    n_null: int = 0
    n_invalid: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: NDArray[np.int64]) -> pa.Array:
        """A copy of some documents, as a large_string array."""
        buffers = [None, pa.py_buffer(self.offsets), pa.py_buffer(self.data)]
        return pa.Array.from_buffers(pa.large_string(), len(self), buffers).take(pa.array(rows))


def text_blocks(texts: Texts, block_bytes: int = BLOCK_BYTES) -> Iterator[TextBlock]:
    """Cut a text column into blocks of about `block_bytes` bytes. A longer document is a block of its own.

    Raises:
        TypeError: if `texts` does not hold text.
    """
    for array in as_binary(texts):
        if not len(array):
            continue
        ends = np.cumsum(np.diff(_offsets(array)))
        start = 0
        while start < len(array):
            limit = block_bytes + (ends[start - 1] if start else 0)
            stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
            yield _text_block(array.slice(start, stop - start))
            start = stop


def map_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map` over threads, in order. Only a few items are in progress at a time, so memory stays bounded.

    It uses `OMP_NUM_THREADS` threads if that is set, else as many as there are cores.
    """
    n_threads = int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0] or os.cpu_count() or 1)
    if n_threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        at_work: deque[Future[Result]] = deque()
        for item in items:
            at_work.append(pool.submit(function, item))
            if len(at_work) > n_threads:
                yield at_work.popleft().result()
        while at_work:
            yield at_work.popleft().result()


def as_binary(texts: Texts) -> Iterator[pa.Array]:
    """`texts` as large_binary arrays.

    Raises:
        TypeError: if `texts` does not hold text.
    """
    if isinstance(texts, pl.Series):
        if texts.dtype not in (pl.String, pl.Binary, pl.Categorical, pl.Enum, pl.Null):
            raise TypeError(f"expected a column of text, got {texts.name!r} of type {texts.dtype}; cast it to String")
        texts = texts.to_arrow()
    if isinstance(texts, pa.ChunkedArray):
        yield from map(_to_binary, texts.chunks)
    elif isinstance(texts, pa.Array):
        yield _to_binary(texts)
    else:
        yield _from_sequence(texts)


def _to_binary(array: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    tests = [getattr(pa.types, f"is_{size}{name}") for name in ("string", "binary") for size in ("", "large_")]
    if not any(
        is_type(kind) for is_type in [*tests, pa.types.is_string_view, pa.types.is_binary_view, pa.types.is_null]
    ):
        raise TypeError(f"expected a column of text, got Arrow type {kind}; cast it to string")
    if pa.types.is_string_view(kind):
        array = array.cast(pa.large_string())
    return array.cast(pa.large_binary())


def _from_sequence(texts: Sequence[str]) -> pa.Array:
    if isinstance(texts, str | bytes):
        raise TypeError(f"expected a sequence of texts, got one {type(texts).__name__}; wrap it in a list")
    for position, text in enumerate(texts):
        if not (text is None or isinstance(text, str)):
            raise TypeError(f"expected str, got {type(text).__name__} at position {position}")
    # Lone surrogates cannot be encoded. They become invalid bytes here, which are counted and replaced like others.
    encoded = [text if text is None else text.encode("utf-8", "surrogatepass") for text in texts]
    return pa.array(encoded, pa.large_binary())


def _offsets(array: pa.Array) -> NDArray[np.int64]:
    return np.frombuffer(array.buffers()[1], np.int64, len(array) + 1, array.offset * 8)


def _text_block(array: pa.Array) -> TextBlock:
    from analysis.text._utf8 import contextual_capitals

    n_null, n_invalid = array.null_count, 0
    if n_null:
        array = array.fill_null(b"")
    try:
        array.cast(pa.large_string())  # raises if the encoding is invalid
    except pa.ArrowInvalid:
        documents = array.to_pylist()
        repaired = [document.decode("utf-8", "replace").encode() for document in documents]
        n_invalid = sum(old != new for old, new in zip(documents, repaired, strict=True))
        array = pa.array(repaired, pa.large_binary())
    data, offsets = _padded(array)
    if (rows := np.flatnonzero(contextual_capitals(data, offsets))).size:
        data, offsets = _lowered(data, offsets, rows)
    # A kernel compiles once more for arrays that can be written to.
    data, offsets = data.view(), offsets.view()
    data.flags.writeable = offsets.flags.writeable = False
    return TextBlock(data, offsets, n_null, n_invalid)


def _lowered(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The same documents, with those in `rows` in lower case."""
    sizes = np.diff(offsets)
    pieces, done = [], offsets[0]
    for row in rows:
        text = data[offsets[row] : offsets[row + 1]].tobytes().decode().lower().encode()
        sizes[row] = len(text)
        pieces += [data[done : offsets[row]], np.frombuffer(text, np.uint8)]
        done = offsets[row + 1]
    pieces += [data[done : offsets[-1]], np.zeros(PADDING, np.uint8)]
    return np.concatenate(pieces), np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def _padded(array: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    offsets = _offsets(array)
    data: NDArray[np.uint8] = np.frombuffer(array.buffers()[2] or b"", np.uint8)
    if offsets[-1] + PADDING <= data.size:
        return data, offsets
    copy = np.zeros(offsets[-1] - offsets[0] + PADDING, np.uint8)
    copy[:-PADDING] = data[offsets[0] : offsets[-1]]
    return copy, offsets - offsets[0]
