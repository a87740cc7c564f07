"""The terms of texts in their order."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from analysis.text.blocks import PADDING, Texts, text_blocks
from analysis.text.characters import Tokens, character_table, ignored_characters


def words(texts: Texts, tokens: Tokens = "unicode") -> Iterator[list[str]]:
    """The terms of each text in order and in lower case: the same terms that `analysis.text.terms.term_counts` counts.

    Args:
        tokens: what counts as a term; see `analysis.text.characters`.

    Raises:
        TypeError: if `texts` does not hold text.
        ValueError: if `tokens` is unknown.
    """
    from analysis.text._tokens import token_spans

    table, ignored = character_table(tokens), ignored_characters() if tokens == "unicode" else {}
    for block in text_blocks(texts):
        spans, ends = token_spans(block.data, block.offsets, table)
        for (start, end), (first, last) in zip(pairwise([0, *ends.tolist()]), pairwise(block.offsets), strict=True):
            yield _terms(block.data[first:last].tobytes(), spans[start:end] - first, ignored)


def words_of(text: str, tokens: Tokens = "unicode") -> list[str]:
    """The terms of one text, as `words([text])` yields them; faster for ASCII."""
    if not text.isascii():
        return next(words([text], tokens))
    from analysis.text._tokens import token_spans

    data = np.zeros(len(text) + PADDING, np.uint8)
    data[: len(text)] = np.frombuffer(text.encode(), np.uint8)
    spans, _ = token_spans(data, np.array([0, len(text)]), character_table(tokens))
    return _terms(text.encode(), spans, {})


def _terms(text: bytes, spans: NDArray[np.int64], ignored: dict[int, None]) -> list[str]:
    """The terms at `spans` of a text; ASCII is decoded at once, in a third of the time."""
    places = spans.tolist()
    if not text.isascii():
        return [as_term(text[start:end], ignored) for start, end in places]
    lower = text.lower().decode()
    return [lower[start:end] for start, end in places]


def as_term(occurrence: bytes, ignored: dict[int, None]) -> str:
    """The term of an occurrence, given the bytes of the occurrence in the text."""
    term = occurrence.decode().lower()
    return term if term.isascii() else term.translate(ignored)
