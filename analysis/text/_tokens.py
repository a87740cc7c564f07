"""Finds the terms of a text with a table of character classes (`analysis.text.characters`).

A term is a word of at least two characters, in lower case. In scripts without spaces, it is a pair of neighbouring
characters, or a single character if it stands alone. A character includes its marks and, in Thai and Lao, its vowels.

A 128-bit key made from its UTF-8 bytes identifies a term. Up to 16 bytes, the key is these bytes. Longer terms are
hashed to 120 bits. ASCII is scanned 64 bytes at a time. A word with other characters is read one character at a time.
"""

from typing import Any

import numpy as np
from numba import njit

from analysis.text._utf8 import (
    classify_64_bytes,
    code_point_at,
    count_ones,
    count_trailing_zeros,
    load_8_bytes,
    lower_ascii,
    utf8,
)
from analysis.text.characters import CLASS_SHIFT, CODE_POINT, IGNORED, MARK, UNSPACED

# Maximum number of tokens from one call of `read_tokens`; a block of 64 bytes has at most 32.
MAX_TOKENS = 256

_U64 = np.uint64
# Number of a token's bytes in the first and second half of its key, by its length.
_LOW_MASK = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(17)], np.uint64)
_HIGH_MASK = np.array([(1 << 8 * max(n - 8, 0)) - 1 for n in range(17)], np.uint64)
_ONE, _EIGHT, _THIRTY_TWO = _U64(1), _U64(8), _U64(32)
_FIRST_LEADING, _LAST_LEADING, _LAO = 0x0E40, 0x0E44, 0x80  # Thai vowels written before their consonant
_MIX_1, _MIX_2 = _U64(0x9E3779B97F4A7C15), _U64(0xC2B2AE3D27D4EB4F)


@njit(cache=True)
def _fold(low: Any, high: Any, word: Any) -> Any:
    """Mix the next eight bytes of a long term into the two halves of its key."""
    low = (low ^ word) * _MIX_1
    high = (high + word) * _MIX_2
    return low ^ (low >> _THIRTY_TWO), high ^ (high >> _THIRTY_TWO)


@njit(cache=True)
def _hashed(low: Any, high: Any, length: Any) -> Any:
    """Key of a term of more than 16 bytes. Its first byte is zero, unlike the first byte of shorter terms' keys."""
    low, high = _fold(low, high, _U64(length))
    return low << _EIGHT, high


@njit(cache=True)
def _long_ascii_key(data: Any, start: Any, length: Any) -> Any:
    low = high = _U64(0)
    for i in range(0, length, 8):
        mask = _LOW_MASK[min(length - i, 8)]
        low, high = _fold(low, high, lower_ascii(load_8_bytes(data, start + i)) & mask)
    return _hashed(low, high, length)


@njit(cache=True, inline="always")
def _added(key: Any, lower: Any) -> Any:
    """An unfinished key, extended by the bytes of one more character."""
    low, high, word, folded_low, folded_high, length = key
    encoded, n_bytes = utf8(lower)
    for _ in range(n_bytes):
        word |= (encoded & _U64(0xFF)) << _U64(8 * (length & 7))
        encoded >>= _EIGHT
        length += 1
        if length & 7 == 0:
            if length == 8:
                low = word
            elif length == 16:
                high = word
            folded_low, folded_high = _fold(folded_low, folded_high, word)
            word = _U64(0)
    return low, high, word, folded_low, folded_high, length


@njit(cache=True, inline="always")
def _finished(key: Any) -> Any:
    """The two halves of the key, after all characters have been added."""
    low, high, word, folded_low, folded_high, length = key
    if length < 8:
        low = word
    elif length < 16:
        high = word
    if length > 16:
        if length & 7:
            folded_low, folded_high = _fold(folded_low, folded_high, word)
        low, high = _hashed(folded_low, folded_high, length)
    return low, high


@njit(cache=True)
def _read_word(data: Any, position: Any, end: Any, table: Any) -> Any:
    """Read a word in a script with spaces, or skip one character that starts no word.

    Returns:
        The end of the word, the position to continue from, the two halves of its key, and its number of characters.
    """
    zero = _U64(0)
    key = (zero, zero, zero, zero, zero, 0)
    characters = step = 0
    while position < end:
        code_point, step = code_point_at(data, position)
        entry = table[code_point]
        kind = entry >> CLASS_SHIFT
        if kind == UNSPACED and characters > 0:
            step = 0
            break
        if entry == 0 or (characters == 0 and kind != 0):
            break
        if kind != IGNORED:
            key = _added(key, entry & CODE_POINT)
            characters += 1
        position += step
        step = 0
    low, high = _finished(key)
    return position, position + step, low, high, characters


@njit(cache=True, inline="always")
def is_unspaced(data: Any, position: Any, end: Any, table: Any) -> Any:
    """Whether a letter of a script without spaces is at `position`."""
    return (
        position < end and data[position] >= 0x80 and table[code_point_at(data, position)[0]] >> CLASS_SHIFT == UNSPACED
    )


@njit(cache=True)
def unit_end(data: Any, position: Any, end: Any, table: Any) -> Any:
    """End of the character at `position`, including its combining marks."""
    position += code_point_at(data, position)[1]
    while position < end and data[position] >= 0x80:
        code_point, step = code_point_at(data, position)
        kind = table[code_point] >> CLASS_SHIFT
        if kind != MARK and kind != IGNORED:
            break
        position += step
    return position


@njit(cache=True)
def _cluster_end(data: Any, position: Any, end: Any, table: Any) -> Any:
    """End of the character at `position`, including its marks and, in Thai and Lao, the vowels written around it.

    Unicode calls these vowels letters; in related scripts they are marks. Lao has Thai's order, 0x80 further on.
    """
    first = code_point_at(data, position)[0] & ~_LAO
    position = unit_end(data, position, end, table)
    if _FIRST_LEADING <= first <= _LAST_LEADING and is_unspaced(data, position, end, table):
        position = unit_end(data, position, end, table)
    while is_unspaced(data, position, end, table):
        following = code_point_at(data, position)[0] & ~_LAO
        if not (following == 0x0E30 or following == 0x0E32 or following == 0x0E33 or following == 0x0E45):
            break
        position = unit_end(data, position, end, table)
    return position


@njit(cache=True)
def _key(data: Any, position: Any, end: Any, table: Any) -> Any:
    """The two halves of the key of a term."""
    zero = _U64(0)
    key = (zero, zero, zero, zero, zero, 0)
    while position < end:
        code_point, step = code_point_at(data, position)
        entry = table[code_point]
        if entry >> CLASS_SHIFT != IGNORED:
            key = _added(key, entry & CODE_POINT)
        position += step
    return _finished(key)


@njit(cache=True)
def _read_pairs(data: Any, position: Any, end: Any, table: Any, keys: Any, spans: Any, n: Any) -> Any:
    """Read the character pairs of a run in a script without spaces; a single character is read as itself.

    If the run has more pairs than there is room for, the last character that was read starts the remaining run.

    Returns:
        The position to continue from, and the number of tokens read.
    """
    start, middle = position, _cluster_end(data, position, end, table)
    is_pair = is_unspaced(data, middle, end, table)
    while True:
        stop = _cluster_end(data, middle, end, table) if is_pair else middle
        keys[n, 0], keys[n, 1] = _key(data, start, stop, table)
        spans[n, 0], spans[n, 1] = start, stop
        n += 1
        if not is_unspaced(data, stop, end, table):
            return stop, n
        if n == MAX_TOKENS:
            return middle, n
        start, middle = middle, stop


@njit(cache=True)
def read_tokens(data: Any, position: Any, end: Any, table: Any, keys: Any, spans: Any) -> Any:
    """Read the next tokens of `data[position:end]`, at most `MAX_TOKENS`.

    Args:
        data: uint8, valid UTF-8, readable for 80 bytes after `end`.
        position: position that the last call returned, or the start of the text.
        table: table from `analysis.text.characters.character_table`.
        keys: uint64 [MAX_TOKENS, 2], output: keys of the tokens.
        spans: int64 [MAX_TOKENS, 2], output: start and end of the tokens in `data`.

    Returns:
        The position to continue from (`end` after the last token), and the number of tokens read.
    """
    n = 0
    while position < end and n <= MAX_TOKENS - 33:
        word, other = classify_64_bytes(data, position)
        if end - position < 64:
            inside = (_ONE << _U64(end - position)) - _ONE
            word &= inside
            other &= inside
        starts = word & ~(word << _ONE)
        ends = ~word & (word << _ONE)
        ascii_bytes = count_trailing_zeros(other)
        if ascii_bytes < 64:
            before = (_ONE << _U64(ascii_bytes)) - _ONE
            starts &= before
            ends &= before
        for _ in range(count_ones(ends)):
            offset = count_trailing_zeros(starts)
            length = count_trailing_zeros(ends) - offset
            starts &= starts - _ONE
            ends &= ends - _ONE
            start = position + offset
            if length <= 16:
                keys[n, 0] = lower_ascii(load_8_bytes(data, start)) & _LOW_MASK[length]
                keys[n, 1] = lower_ascii(load_8_bytes(data, start + 8)) & _HIGH_MASK[length]
            else:
                keys[n, 0], keys[n, 1] = _long_ascii_key(data, start, length)
            spans[n, 0], spans[n, 1] = start, start + length
            n += length > 1
        # A word that continues after these bytes is read again from its start.
        open_word = min(count_trailing_zeros(starts), ascii_bytes)
        if ascii_bytes == 64 and open_word > 0:
            position += open_word
            continue
        start = position + open_word
        if is_unspaced(data, start, end, table):
            position, n = _read_pairs(data, start, end, table, keys, spans, n)
            continue
        stop, position, low, high, characters = _read_word(data, start, end, table)
        if characters > 1:
            keys[n, 0], keys[n, 1] = low, high
            spans[n, 0], spans[n, 1] = start, stop
            n += 1
    return position, n


@njit(nogil=True, cache=True)
def token_spans(data: Any, offsets: Any, table: Any) -> Any:
    """Find the positions of the tokens in each document.

    Returns:
        int64 [n_tokens, 2], start and end of each token in `data`; and int64 [n_documents], the cumulative number of
        tokens.
    """
    found = np.empty(((offsets[-1] - offsets[0]) // 3 + MAX_TOKENS, 2), np.int64)
    ends = np.zeros(offsets.size - 1, np.int64)
    keys, spans = np.empty((MAX_TOKENS, 2), np.uint64), np.empty((MAX_TOKENS, 2), np.int64)
    n = 0
    for document in range(offsets.size - 1):
        position, end = offsets[document], offsets[document + 1]
        while position < end:
            if n + MAX_TOKENS > len(found):
                found = np.concatenate((found, np.empty_like(found)))
            position, n_read = read_tokens(data, position, end, table, keys, spans)
            found[n : n + n_read] = spans[:n_read]
            n += n_read
        ends[document] = n
    return found[:n].copy(), ends


@njit(nogil=True, cache=True)
def hash_documents(data: Any, offsets: Any, seed: Any) -> Any:
    """A uint64 hash of each document. It depends only on the bytes and the seed."""
    hashes = np.empty(offsets.size - 1, np.uint64)
    for document in range(offsets.size - 1):
        start, end = offsets[document], offsets[document + 1]
        low = high = _U64(seed)
        for position in range(start, end, 8):
            low, high = _fold(low, high, load_8_bytes(data, position) & _LOW_MASK[min(end - position, 8)])
        low, high = _fold(low, high, _U64(end - start))
        low, high = _fold(low, high, high)
        hashes[document] = low ^ high
    return hashes
