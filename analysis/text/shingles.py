"""Word shingles as 64-bit hashes, for near-duplicate search and decontamination.

Words are those of `analysis.text.characters`, in lower case, including words of one letter; all forms of i count as one
letter. In scripts without spaces, each character is a token. Every other visible character is also a token, so `a + b`
and `a - b` differ. The hash function is defined here and does not depend on a library's version, so the same text has
the same shingles everywhere.
"""

from dataclasses import dataclass
from functools import cache

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.text._tokens import unit_end
from analysis.text._utf8 import code_point_at, utf8
from analysis.text.characters import CLASS_SHIFT, CODE_POINT, IGNORED, UNSPACED, WORD, character_table

FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)
WINDOW_PRIME = np.uint64(0x9E3779B97F4A7C15)

WORD_WEIGHT, IDEOGRAPH_WEIGHT, LETTER_WEIGHT = 6, 4, 2
"""Lengths of a word, an ideograph, and another character of a script without spaces, for the length of a text.

In translations, an English word corresponds to 1.6 Chinese, 2.8 Japanese or 4.1 Thai characters
(docs/results/scripts.md).
"""


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
        """Row number [n_values] of each value."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def where(self, keep: NDArray[np.bool_]) -> "Rows":
        """Only the values for which `keep` is true."""
        counts = np.concatenate([[0], np.cumsum(keep)])
        return Rows(self.values[keep], counts[self.offsets])


def shingles(texts: pl.Series, size: int, *, punctuation: bool, by_length: bool = False, distinct: bool = True) -> Rows:
    """The shingles of `size` tokens of each text.

    A text with fewer tokens has one shingle of all its tokens. A text without tokens has none.

    Args:
        texts: strings without nulls.
        by_length: whether to count a character of a script without spaces as a fraction of a word, so that shingles
            have the same length in every language: `size` words or the equivalent number of characters.
        punctuation: whether punctuation marks are tokens; otherwise they are ignored.
        distinct: whether each shingle is given once and in ascending order; otherwise in the order of the text, which
            takes half of the time.
    """
    data = np.frombuffer(texts.str.join("").item().encode(), dtype=np.uint8)
    ends = np.concatenate([[0], texts.str.len_bytes().cast(pl.Int64).cum_sum().to_numpy()]).astype(np.int64)
    tokens, weights, offsets = _token_hashes(data, ends, punctuation, _characters())
    if not by_length:
        weights.fill(WORD_WEIGHT)
    values, offsets = _windows(tokens, weights, offsets, size * WORD_WEIGHT, distinct)
    return Rows(values, offsets)


@cache
def _characters() -> NDArray[np.int32]:
    """The table of characters, with one letter for all forms of i: in Turkish, KISA is the capital form of kısa, and
    İYİ that of iyi."""
    table = character_table("unicode").copy()
    table[[ord("ı"), ord("İ")]] = ord("i")
    return table


def jaccard(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> float:
    """Jaccard similarity of two sorted sets of shingles; 0 if both are empty."""
    return float(_jaccard(left, right))


@numba.njit(cache=True)
def count_slots(values: NDArray[np.uint64], counts: NDArray[np.uint8]) -> None:
    """Add one to `counts[value % len(counts)]` for each value. Counters saturate at 255.

    Counters are single bytes, because the table is accessed at random and a small table stays in the cache.
    """
    slots = np.uint64(len(counts))
    for value in values:
        slot = value % slots
        if counts[slot] < 255:
            counts[slot] += np.uint8(1)


def rare(every: Rows, counts: NDArray[np.uint8], most: int) -> Rows:
    """The values with a count of at most `most`; a row without such a value keeps all of its own.

    Args:
        counts: see `count_slots`; their number is a power of two.
    """
    return Rows(*_rare(every.values, every.offsets, counts, most))


@numba.njit(cache=True)
def _rare(
    values: NDArray[np.uint64], offsets: NDArray[np.int64], counts: NDArray[np.uint8], most: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    slots = np.uint64(len(counts) - 1)
    kept, kept_offsets = np.empty_like(values), np.zeros_like(offsets)
    found = 0
    for row in range(len(offsets) - 1):
        first = found
        for value in values[offsets[row] : offsets[row + 1]]:
            kept[found] = value
            found += counts[value & slots] <= most
        if found == first:
            found += offsets[row + 1] - offsets[row]
            kept[first:found] = values[offsets[row] : offsets[row + 1]]
        kept_offsets[row + 1] = found
    return kept[:found].copy(), kept_offsets


@numba.njit(cache=True)
def _is_word(byte: int) -> bool:
    return 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122 or byte == 95


@numba.njit(cache=True)
def _mix(value: np.uint64) -> np.uint64:
    # The finaliser of MurmurHash3: with FNV alone, the high bits of short words would be similar.
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@numba.njit(cache=True)
def _is_blank(code_point: int) -> bool:
    """Whether a code point above ASCII is a space or an invisible separator."""
    return (
        code_point <= 0xA0
        or code_point == 0x1680
        or 0x2000 <= code_point <= 0x200B
        or 0x2028 <= code_point <= 0x2029
        or code_point in (0x202F, 0x205F, 0x3000)
    )


@numba.njit(cache=True)
def _is_ideograph(code_point: int) -> bool:
    """Whether a code point of a script without spaces is Han, Yi, Tangut or Khitan."""
    return 0x3400 <= code_point <= 0xA48F or 0xF900 <= code_point <= 0xFAFF or code_point >= 0x16FE0


@numba.njit(cache=True)
def _hashed(data: NDArray[np.uint8], position: int, end: int, table: NDArray[np.int32], state: np.uint64) -> np.uint64:
    """A hash state, updated with the lower-case bytes of the characters from `position` to `end`."""
    while position < end:
        code_point, step = code_point_at(data, position)
        entry = table[code_point]
        if entry >> CLASS_SHIFT != IGNORED:
            encoded, n_bytes = utf8(entry & CODE_POINT)
            for _ in range(n_bytes):
                state = (state ^ (encoded & np.uint64(0xFF))) * FNV_PRIME
                encoded >>= np.uint64(8)
        position += step
    return state


@numba.njit(cache=True)
def _word_hash(data: NDArray[np.uint8], position: int, end: int, table: NDArray[np.int32]) -> tuple[np.uint64, int]:
    """The hash of the word at `position`, and its end."""
    state = FNV_OFFSET
    while position < end:
        byte = data[position]
        if byte < 128:
            if not _is_word(byte):
                break
            if 65 <= byte <= 90:
                byte += np.uint8(32)
            state = (state ^ np.uint64(byte)) * FNV_PRIME
            position += 1
            continue
        code_point, step = code_point_at(data, position)
        entry = table[code_point]
        if entry == 0 or entry >> CLASS_SHIFT == UNSPACED:
            break
        state = _hashed(data, position, position + step, table, state)
        position += step
    return _mix(state), position


@numba.njit(cache=True)
def _token_hashes(
    data: NDArray[np.uint8], ends: NDArray[np.int64], punctuation: bool, table: NDArray[np.int32]
) -> tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.int64]]:
    """Hashes, weights and offsets of the tokens of each text."""
    tokens = np.empty(len(data), dtype=np.uint64)
    weights = np.full(len(data), WORD_WEIGHT, dtype=np.uint8)
    offsets = np.zeros(len(ends), dtype=np.int64)
    found = 0
    for row in range(len(ends) - 1):
        position, end = ends[row], ends[row + 1]
        while position < end:
            byte = data[position]
            if _is_word(byte):
                tokens[found], position = _word_hash(data, position, end, table)
                found += 1
                continue
            if byte < 128:
                if punctuation and byte > 32 and byte != 127:
                    tokens[found] = _mix(FNV_OFFSET ^ np.uint64(byte))
                    found += 1
                position += 1
                continue
            code_point, step = code_point_at(data, position)
            entry = table[code_point]
            kind = entry >> CLASS_SHIFT
            if kind == UNSPACED:
                stop = unit_end(data, position, end, table)
                tokens[found] = _mix(_hashed(data, position, stop, table, FNV_OFFSET))
                weights[found] = IDEOGRAPH_WEIGHT if _is_ideograph(code_point) else LETTER_WEIGHT
                found += 1
                position = stop
            elif entry != 0 and kind == WORD:
                tokens[found], position = _word_hash(data, position, end, table)
                found += 1
            else:
                if punctuation and entry == 0 and not _is_blank(code_point):
                    tokens[found] = _mix(FNV_OFFSET ^ np.uint64(code_point))
                    found += 1
                position += step
        offsets[row + 1] = found
    return tokens[:found].copy(), weights[:found].copy(), offsets


@numba.njit(cache=True)
def _windows(
    tokens: NDArray[np.uint64], weights: NDArray[np.uint8], offsets: NDArray[np.int64], size: int, distinct: bool
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Windows of each row, and offsets. A window is a shortest run of tokens with weight `size`."""
    windows = np.empty(len(tokens), dtype=np.uint64)
    window_offsets = np.zeros(len(offsets), dtype=np.int64)
    powers = np.ones(size + 1, dtype=np.uint64)
    for i in range(size):
        powers[i + 1] = powers[i] * WINDOW_PRIME
    found = 0
    for row in range(len(offsets) - 1):
        left, end = offsets[row], offsets[row + 1]
        first = found
        state, weight = np.uint64(0), 0
        for i in range(left, end):
            # Rolling: each window follows from the previous one by adding one token and removing a few.
            state = state * WINDOW_PRIME + tokens[i]
            weight += weights[i]
            while weight - weights[left] >= size:
                state -= powers[i - left] * tokens[left]
                weight -= weights[left]
                left += 1
            if weight >= size or (i == end - 1 and found == first):
                windows[found] = _mix(state)
                found += 1
        if distinct and found > first:
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
