"""Stop words in any language: words whose neighbours always change.

A content word often has the same few neighbours before or after it. Words like "and", "was" or "which" have thousands
of different neighbours on both sides. The repeat rate of a side is the probability that two occurrences of the word
have the same neighbour on that side. This needs no word list and no knowledge of the language.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from analysis.text.blocks import Texts, as_binary
from analysis.text.words import words

# Limit for the geometric mean of both repeat rates. Among frequent words of real corpora, "and", "to", "was", "he",
# "that" and "of" have .01 to .033; "syndrome", "treatment" and "time" have .038 to .057; "function", "contract" and
# "review" have .3 or more (docs/results/scripts.md).
MAX_REPEAT_RATE = 0.035
MIN_OCCURRENCES = 30
"""With fewer neighbours, the repeat rate cannot be estimated. Such words count as content words."""
SAMPLE_SIZE = 3000


def repeat_rates(texts: Texts, terms: list[str], random_state: int = 0) -> NDArray[np.float64]:
    """Repeat rates [2, n_terms] on the left and right: probability that two occurrences have the same neighbour.

    The rate is 1 if a term has fewer than `MIN_OCCURRENCES` neighbours on that side in a sample of the texts.

    Args:
        terms: all terms that occur in the texts.
    """
    documents = pa.chunked_array(as_binary(texts))
    if len(documents) > SAMPLE_SIZE:
        rows = np.random.default_rng(random_state).choice(len(documents), SAMPLE_SIZE, replace=False)
        documents = documents.take(pa.array(np.sort(rows)))
    number_of = {term: number for number, term in enumerate(terms)}
    pairs = [np.empty((2, 0), np.int64)]
    for document in words(documents):
        numbers = np.array([number_of[word] for word in document], np.int64)
        pairs.append(np.stack([numbers[:-1], numbers[1:]]))
    left, right = np.concatenate(pairs, axis=1)
    return np.stack([_repeat_rate(right, left, len(terms)), _repeat_rate(left, right, len(terms))])


def stop_words(texts: Texts, terms: list[str], random_state: int = 0) -> NDArray[np.bool_]:
    """Whether each term is a stop word [n_terms]; the arguments are those of `repeat_rates`."""
    return np.asarray(np.sqrt(repeat_rates(texts, terms, random_state).prod(axis=0)) <= MAX_REPEAT_RATE)


def _repeat_rate(terms: NDArray[np.int64], neighbours: NDArray[np.int64], n_terms: int) -> NDArray[np.float64]:
    pairs, counts = np.unique(terms * n_terms + neighbours, return_counts=True)
    term = pairs // max(n_terms, 1)
    total = np.bincount(term, counts, n_terms)
    same = np.bincount(term, counts * (counts - 1.0), n_terms)
    return np.where(total < MIN_OCCURRENCES, 1.0, same / np.maximum(total * (total - 1), 1))
