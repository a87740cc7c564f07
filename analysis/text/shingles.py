"""Word shingles as 64-bit hashes: what near-duplicate search and decontamination compare.

Words are runs of ASCII letters, digits, underscores and non-ASCII characters, in lower case where ASCII; every other
visible character is a token of its own, so `a + b` and `a - b` differ. The hash is fixed here and does not depend on
a library's version: the same text gives the same shingles everywhere.
"""

from dataclasses import dataclass

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray

FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)
WINDOW_PRIME = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Rows:
    """Ragged rows: the values of row i are `values[offsets[i]:offsets[i + 1]]`."""

    values: NDArray[np.uint64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.uint64]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def row_of_value(self) -> NDArray[np.int64]:
        """The row that each value belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def where(self, keep: NDArray[np.bool_]) -> "Rows":
        """Only the values for which `keep` is true."""
        counts = np.concatenate([[0], np.cumsum(keep)])
        return Rows(self.values[keep], counts[self.offsets])


def shingles(texts: pl.Series, size: int, *, punctuation: bool) -> Rows:
    """The different shingles of `size` tokens of each text, sorted.

    A text of fewer tokens has one shingle, of all its tokens; a text without tokens has none.

    Args:
        texts: strings without nulls.
        size: tokens in a shingle.
        punctuation: whether punctuation marks are tokens or ignored.
    """
    data = np.frombuffer(texts.str.join("").item().encode(), dtype=np.uint8)
    ends = np.concatenate([[0], texts.str.len_bytes().cast(pl.Int64).cum_sum().to_numpy()]).astype(np.int64)
    tokens, offsets = _token_hashes(data, ends, punctuation)
    return Rows(*_sorted_windows(tokens, offsets, size))


def jaccard(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> float:
    """Jaccard similarity of two sorted sets of shingles; 0 if both are empty."""
    return float(_jaccard(left, right))


@numba.njit(cache=True)
def count_slots(values: NDArray[np.uint64], counts: NDArray[np.uint8]) -> None:
    """Add one to `counts[value % len(counts)]` for each value; a full counter stays full.

    Bytes, because the table is read at random and a small one stays in the cache.
    """
    slots = np.uint64(len(counts))
    for value in values:
        slot = value % slots
        if counts[slot] < 255:
            counts[slot] += np.uint8(1)


@numba.njit(cache=True)
def _is_word(byte: int) -> bool:
    return byte >= 128 or 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122 or byte == 95


@numba.njit(cache=True)
def _mix(value: np.uint64) -> np.uint64:
    # the finaliser of MurmurHash3: FNV alone leaves the high bits of short words alike
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@numba.njit(cache=True)
def _token_hashes(
    data: NDArray[np.uint8], ends: NDArray[np.int64], punctuation: bool
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    tokens = np.empty(len(data), dtype=np.uint64)
    offsets = np.zeros(len(ends), dtype=np.int64)
    found = 0
    for row in range(len(ends) - 1):
        position, end = ends[row], ends[row + 1]
        while position < end:
            byte = data[position]
            if not _is_word(byte):
                if punctuation and byte > 32 and byte != 127:
                    tokens[found] = _mix(FNV_OFFSET ^ np.uint64(byte))
                    found += 1
                position += 1
                continue
            state = FNV_OFFSET
            while position < end and _is_word(data[position]):
                byte = data[position]
                if 65 <= byte <= 90:
                    byte += np.uint8(32)
                state = (state ^ np.uint64(byte)) * FNV_PRIME
                position += 1
            tokens[found] = _mix(state)
            found += 1
        offsets[row + 1] = found
    return tokens[:found].copy(), offsets


@numba.njit(cache=True)
def _sorted_windows(
    tokens: NDArray[np.uint64], offsets: NDArray[np.int64], size: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    windows = np.empty(len(tokens), dtype=np.uint64)
    window_offsets = np.zeros(len(offsets), dtype=np.int64)
    found = 0
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        width = min(size, end - start)
        first = found
        if width > 0:
            # rolling: each window follows from the one before it by one step in and one step out
            leaving, state = np.uint64(1), np.uint64(0)
            for _ in range(width):
                leaving *= WINDOW_PRIME
            for i in range(start, end):
                state = state * WINDOW_PRIME + tokens[i]
                if i - start >= width:
                    state -= leaving * tokens[i - width]
                if i - start >= width - 1:
                    windows[found] = _mix(state)
                    found += 1
            windows[first:found].sort()
            kept = first + 1
            for i in range(first + 1, found):
                if windows[i] != windows[i - 1]:
                    windows[kept] = windows[i]
                    kept += 1
            found = kept
        window_offsets[row + 1] = found
    return windows[:found].copy(), window_offsets


@numba.njit(cache=True)
def _jaccard(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> float:
    i = j = common = 0
    while i < len(left) and j < len(right):
        if left[i] == right[j]:
            common += 1
            i += 1
            j += 1
        elif left[i] < right[j]:
            i += 1
        else:
            j += 1
    total = len(left) + len(right) - common
    return common / total if total else 0.0
