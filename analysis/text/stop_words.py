"""Words that say nothing about a subject, in any language: those that stand between ever other words.

A word with a meaning keeps company: before or after it the same few words come again and again. An "and", "was" or
"which" is found between thousands of others on either side. The repeat rate of a side is the chance that two of the
word's occurrences have the same neighbour there. No list of words is needed, and no knowledge of the language.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from analysis.text.blocks import Texts, as_binary
from analysis.text.words import words

# The geometric mean of both repeat rates. Of the widespread words of real corpora "and", "to", "was", "he", "that" and
# "of" have .01 to .033, "syndrome", "treatment" and "time" .038 to .057, "function", "contract" and "review" .3 and
# more (docs/results/scripts.md).
MAX_REPEAT_RATE = 0.035
MIN_OCCURRENCES = 30
"""Of fewer, a repeat rate cannot be told; such words count as words with a meaning."""
SAMPLE_SIZE = 3000


def repeat_rates(texts: Texts, terms: list[str], random_state: int = 0) -> NDArray[np.float64]:
    """Chance that two occurrences of a term have the same neighbour: [2, n_terms], on the left and on the right.

    1 where it has fewer than `MIN_OCCURRENCES` neighbours on that side in a sample of the texts.

    Args:
        texts: the documents.
        terms: all that occur in them.
        random_state: seed of the sample.
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
    """Which of the terms stand between ever other words [n_terms]; arguments as for `repeat_rates`."""
    return np.asarray(np.sqrt(repeat_rates(texts, terms, random_state).prod(axis=0)) <= MAX_REPEAT_RATE)


def _repeat_rate(terms: NDArray[np.int64], neighbours: NDArray[np.int64], n_terms: int) -> NDArray[np.float64]:
    pairs, counts = np.unique(terms * n_terms + neighbours, return_counts=True)
    term = pairs // max(n_terms, 1)
    total = np.bincount(term, counts, n_terms)
    same = np.bincount(term, counts * (counts - 1.0), n_terms)
    return np.where(total < MIN_OCCURRENCES, 1.0, same / np.maximum(total * (total - 1), 1))
