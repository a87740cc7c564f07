"""Kernels that count the terms of documents and turn the counts into TF-IDF rows or LSA features.

All kernels work on a block of documents, where document i is `data[offsets[i] : offsets[i + 1]]` (see
`analysis.text.blocks`). They release the GIL, so threads can work on several blocks. Counts are in CSR format: the
distinct terms of document i are `indices[indptr[i] : indptr[i + 1]]`, in order of first occurrence, with the same slice
of `counts`.
"""

from typing import Any

import numpy as np
from numba import njit

from analysis.text._tokens import MAX_TOKENS, read_tokens

_MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


@njit(cache=True)
def _find(slots: Any, keys: Any, low: Any, high: Any) -> Any:
    """Slot of a key, or the empty slot in which to insert it (linear probing)."""
    mask = slots.size - 1
    slot = np.int64(((low * _MIX_1) ^ (high * _MIX_2)) >> np.uint64(32)) & mask
    while True:
        term = slots[slot]
        if term < 0 or (keys[term, 0] == low and keys[term, 1] == high):
            return slot
        slot = (slot + 1) & mask


@njit(cache=True)
def build_slots(keys: Any, n_terms: Any) -> Any:
    """Hash table (int32) from a key to its index in `keys[:n_terms]`; -1 in empty slots. It has room for all `keys`."""
    size = 1024
    while size < 4 * len(keys):
        size *= 2
    slots = np.empty(size, np.int32)
    for slot in range(size):
        slots[slot] = -1
    for term in range(n_terms):
        slots[_find(slots, keys, keys[term, 0], keys[term, 1])] = term
    return slots


@njit(nogil=True, cache=True)
def count_terms(
    data: Any, offsets: Any, unicode: Any, slots: Any, keys: Any, spans: Any, n_terms: Any, learn: Any, dense: Any
) -> Any:
    """Count the terms of each document.

    Args:
        unicode: table from `analysis.text.characters.character_table`.
        slots: hash table of `keys[:n_terms]` (see `build_slots`).
        keys: uint64 [capacity, 2].
        spans: int64 [capacity, 2].
        learn: whether to add unknown terms to the table, and their start and end in `data` to `spans`. Otherwise they
            are not counted.

    Returns:
        indptr, indices and counts; int64 [n_documents], the number of tokens of each document; and the new number of
        terms. If the table or `keys` is full, indptr is empty: enlarge them and count the block again.
    """
    n_documents = offsets.size - 1
    # A term has at least two bytes and a separator. Between scripts with and without spaces there is no separator.
    n_bytes = offsets[-1] - offsets[0]
    room = (n_bytes if dense else n_bytes // 3) + n_documents + MAX_TOKENS
    indptr = np.zeros(n_documents + 1, np.int64)
    indices = np.empty(room, np.int32)
    counts = np.empty(room, np.int32)
    n_tokens = np.zeros(n_documents, np.int64)
    count_in_row = np.zeros(len(keys), np.int32)
    token_keys = np.empty((MAX_TOKENS, 2), np.uint64)
    token_spans = np.empty((MAX_TOKENS, 2), np.int64)
    nonzeros = 0
    for document in range(n_documents):
        row_start, total = nonzeros, 0
        position, end = offsets[document], offsets[document + 1]
        while position < end:
            if learn and n_terms + MAX_TOKENS > len(keys):
                return indptr[:0], indices[:0], counts[:0], n_tokens, n_terms
            if nonzeros + MAX_TOKENS > room:
                return indptr[:0], indices[:0], counts[:0], n_tokens, n_terms
            position, n_read = read_tokens(data, position, end, unicode, token_keys, token_spans)
            total += n_read
            for i in range(n_read):
                slot = _find(slots, keys, token_keys[i, 0], token_keys[i, 1])
                term = slots[slot]
                if term < 0:
                    if not learn:
                        continue
                    term = np.int32(n_terms)
                    n_terms += 1
                    slots[slot] = term
                    keys[term, 0], keys[term, 1] = token_keys[i, 0], token_keys[i, 1]
                    spans[term, 0], spans[term, 1] = token_spans[i, 0], token_spans[i, 1]
                # Branch-free, because the CPU could not predict whether the row already has the term.
                count = count_in_row[term]
                count_in_row[term] = count + 1
                indices[nonzeros] = term
                nonzeros += count == 0
        for i in range(row_start, nonzeros):
            counts[i] = count_in_row[indices[i]]
            count_in_row[indices[i]] = 0
        n_tokens[document] = total
        indptr[document + 1] = nonzeros
    return indptr, indices[:nonzeros], counts[:nonzeros], n_tokens, n_terms


@njit(nogil=True, cache=True)
def weigh_rows(indptr: Any, indices: Any, counts: Any, columns: Any, idf: Any, count_weights: Any) -> Any:
    """Turn rows of counts into TF-IDF rows of L2 norm one.

    Args:
        columns: int32 [n_terms], column of each term; -1 omits the term.
        idf: float64 [n_columns], idf of each column.
        count_weights: float64, weight of each possible count.

    Returns:
        indptr, indices and float32 values.
    """
    n_rows = len(indptr) - 1
    new_indptr = np.zeros(n_rows + 1, np.int64)
    new_indices = np.empty(len(indices), np.int32)
    values = np.empty(len(indices), np.float32)
    nonzeros = 0
    for row in range(n_rows):
        first, squares = nonzeros, 0.0
        for i in range(indptr[row], indptr[row + 1]):
            column = columns[indices[i]]
            if column >= 0:
                weight = count_weights[counts[i]] * idf[column]
                squares += weight * weight
                new_indices[nonzeros] = column
                values[nonzeros] = weight
                nonzeros += 1
        scale = 1 / np.sqrt(squares) if squares > 0 else 0.0
        for i in range(first, nonzeros):
            values[i] *= scale
        new_indptr[row + 1] = nonzeros
    return new_indptr, new_indices[:nonzeros], values[:nonzeros]


@njit(nogil=True, cache=True)
def project_rows(indptr: Any, indices: Any, counts: Any, count_weights: Any, idf: Any, directions: Any) -> Any:
    """LSA features of rows of counts. Each row has L2 norm one, or is zero if it has no terms.

    The TF-IDF rows are not normalised first, because the projected row is normalised at the end.

    Args:
        count_weights: float32, weight of each possible count.
        idf: float32 [n_terms].
        directions: float32 [n_terms, n_components].

    Returns:
        Features float32 [n_rows, n_components], and float32 [n_rows], the share of the squared length of the TF-IDF row
        that the projection keeps.
    """
    n_rows, n_components = len(indptr) - 1, directions.shape[1]
    features = np.zeros((n_rows, n_components), np.float32)
    explained = np.zeros(n_rows, np.float32)
    for row in range(n_rows):
        total = squares = np.float32(0)
        for i in range(indptr[row], indptr[row + 1]):
            term = indices[i]
            weight = count_weights[counts[i]] * idf[term]
            total += weight * weight
            for j in range(n_components):
                features[row, j] += weight * directions[term, j]
        for j in range(n_components):
            squares += features[row, j] * features[row, j]
        if squares > 0:
            explained[row] = squares / total
            scale = np.float32(1) / np.sqrt(squares)
            for j in range(n_components):
                features[row, j] *= scale
    return features, explained
