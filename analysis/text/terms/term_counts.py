"""Counts how often each term occurs in each document."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.text.blocks import TextBlock, text_blocks
from analysis.text.characters import Tokens, character_table, ignored_characters
from analysis.text.words import as_term


class TermCounts(NamedTuple):
    """Counts of terms in CSR format, one row per document.

    Attributes:
        indptr: int64 [n_documents + 1]; document i has the distinct terms `indices[indptr[i] : indptr[i + 1]]`, in
            order of first occurrence.
        counts: int32, how often the term occurs in the document.
        n_tokens: int64 [n_documents], number of tokens of each document, including unknown terms.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    counts: NDArray[np.int32]
    n_tokens: NDArray[np.int64]


class TermCounter:
    """Counts terms. It gives numbers to the terms of `vocabulary` and to the terms that it learns.

    Args:
        vocabulary: terms that are known from the start.
        tokens: what counts as a term; see `analysis.text.characters`.

    Attributes:
        terms: known terms; the number of a term is its index in this list.

    Raises:
        ValueError: `vocabulary` has duplicates or entries that are not lower-case words, or `tokens` is unknown.
    """

    terms: list[str]

    def __init__(self, vocabulary: Sequence[str] = (), tokens: Tokens = "unicode") -> None:
        from analysis.text.terms._terms import build_slots

        self.terms = []
        self._characters = character_table(tokens)
        self._ignored = ignored_characters() if tokens == "unicode" else {}
        self._keys = np.zeros((1 << 14, 2), np.uint64)
        self._slots = build_slots(self._keys, 0)
        for block in text_blocks(vocabulary):
            self.learn(block)
        if self.terms != list(vocabulary):
            raise ValueError("expected a vocabulary of different lower-case words; fit or load the vectoriser again")

    def count(self, block: TextBlock) -> TermCounts:
        """Count the known terms of each document. Several threads may call it at a time."""
        return self._count(block, learn=False)

    def learn(self, block: TextBlock) -> TermCounts:
        """Count all terms of each document, and add unknown terms to the known ones."""
        return self._count(block, learn=True)

    def _count(self, block: TextBlock, learn: bool) -> TermCounts:
        from analysis.text._tokens import MAX_TOKENS
        from analysis.text.terms._terms import build_slots, count_terms

        spans = np.empty((len(self._keys) if learn else 0, 2), np.int64)
        n_terms = n_old = len(self.terms)
        dense = False
        while True:
            *counts, n_terms = count_terms(
                block.data, block.offsets, self._characters, self._slots, self._keys, spans, n_terms, learn, dense
            )
            if len(counts[0]):
                break
            if not learn or n_terms + MAX_TOKENS <= len(self._keys):
                dense = True
                continue
            self._keys = np.concatenate([self._keys, np.zeros_like(self._keys)])
            self._slots = build_slots(self._keys, n_terms)
            spans = np.concatenate([spans, np.empty_like(spans)])
        if n_terms > n_old:
            first, last = block.offsets[0], block.offsets[-1]
            text = block.data[first:last].tobytes()
            starts, ends = (spans[n_old:n_terms] - first).T.tolist()
            self.terms += [as_term(text[start:end], self._ignored) for start, end in zip(starts, ends, strict=True)]
        return TermCounts(*counts)


def stack(blocks: Sequence[TermCounts]) -> TermCounts:
    """Concatenate the counts of several blocks of documents."""
    nonzeros = np.cumsum([0, *(block.indptr[-1] for block in blocks)])
    indptr = [block.indptr[1:] + before for block, before in zip(blocks, nonzeros, strict=False)]
    return TermCounts(
        np.concatenate([np.zeros(1, np.int64), *indptr]),
        np.concatenate([np.empty(0, np.int32), *(block.indices for block in blocks)]),
        np.concatenate([np.empty(0, np.int32), *(block.counts for block in blocks)]),
        np.concatenate([np.empty(0, np.int64), *(block.n_tokens for block in blocks)]),
    )
