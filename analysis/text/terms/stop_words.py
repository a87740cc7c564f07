"""Stop words in any language: words whose neighbours always change, in whatever kind of text.

A content word often has the same few neighbours before or after it. Words like "and", "was" or "which" have thousands
of different neighbours on both sides. The repeat rate of a side is the probability that two occurrences of the word
have the same neighbour on that side. This needs no knowledge of the language.

Where all texts follow one pattern ("what are the treatments for ..."), its function words have the same neighbours too.
So a word gets its lowest rate: in one of the groups of texts, or in all texts together.

The rates of "she", "in" or "many" in one kind of text are as high as those of its subject words. So words of
scikit-learn's English list, which also holds "system" and "bill", are stop words at rates where others are not.
"""

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64
from numpy.typing import ArrayLike, NDArray
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from analysis.text.blocks import Texts, as_binary
from analysis.text.words import words

# Limits for the geometric mean of both repeat rates. Among frequent words of real corpora, "and", "to", "was", "he",
# "that" and "of" have .001 to .033, "how", "can" and "about" .04 to .061; "syndrome", "treatment" and "time" have .019
# to .057; "function", "contract" and "review" have .3 or more (docs/results/scripts.md).
MAX_REPEAT_RATE = 0.035
MAX_SHARED_RATE = 0.062
"""Limit for words that several groups share, such as "about"."""
MAX_KNOWN_RATE = 0.3
"""Limit for words of the English list. GSM8K's "many" has .07 and its "much" .27, MedQuAD's "name" .302."""
MAX_OWN_RATE = 0.018
"""Limit for words that only one of several groups has, such as "syndrome"."""
SHARED = 0.03
"""A group has a word if this share of its documents has it."""
MIN_OCCURRENCES = 30
"""With fewer neighbours, the repeat rate cannot be estimated. Such words count as content words."""
SAMPLE_SIZE = 3000


def repeat_rates(
    texts: Texts, terms: list[str], groups: ArrayLike | None = None, random_state: int = 0
) -> Float64[np.ndarray, "2 n_terms"]:
    """Repeat rates on the left and right: probability that two occurrences have the same neighbour.

    The rate is 1 if a term has fewer than `MIN_OCCURRENCES` neighbours on that side in a sample of the texts. If there
    are groups, both rates come from the group, or from all texts, where their geometric mean is lowest.

    Args:
        texts: the documents.
        terms: all terms that occur in the texts.
        groups: [n], number of each document's group.
        random_state: seed of the sample.
    """
    documents = pa.chunked_array(as_binary(texts))
    group = np.zeros(len(documents), np.int64) if groups is None else np.asarray(groups, np.int64)
    if len(documents) > SAMPLE_SIZE:
        rows = np.sort(np.random.default_rng(random_state).choice(len(documents), SAMPLE_SIZE, replace=False))
        documents, group = documents.take(pa.array(rows)), group[rows]
    number_of = {term: number for number, term in enumerate(terms)}
    pairs, group_of_pair = [np.empty((2, 0), np.int64)], [np.empty(0, np.int64)]
    for document, own in zip(words(documents), group.tolist(), strict=True):
        numbers = np.array([number_of[word] for word in document], np.int64)
        pairs.append(np.stack([numbers[:-1], numbers[1:]]))
        group_of_pair.append(np.full(max(len(numbers) - 1, 0), own))
    left, right = np.concatenate(pairs, axis=1)
    owner, n = np.concatenate(group_of_pair), len(terms)
    parts = [np.ones(len(left), np.bool_), *((owner == one for one in np.unique(group)) if groups is not None else [])]
    rates = np.stack(
        [[_repeat_rate(right[p], left[p], n), _repeat_rate(left[p], right[p], n)] for p in parts]
    )  # [n_parts, 2, n_terms]
    return np.asarray(np.take_along_axis(rates, rates.prod(axis=1, keepdims=True).argmin(axis=0)[None], axis=0)[0])


def stop_words(
    texts: Texts,
    terms: list[str],
    groups: ArrayLike | None = None,
    shares: Float64[np.ndarray, "n_groups n_terms"] | None = None,
    random_state: int = 0,
) -> Bool[np.ndarray, " n_terms"]:
    """Whether each term is a stop word.

    Args:
        texts, terms, groups, random_state: those of `repeat_rates`.
        shares: share of the documents of each group that have the term.
    """
    rates = np.sqrt(repeat_rates(texts, terms, groups, random_state).prod(axis=0))
    is_known = in_english_list(terms)
    if shares is None or len(shares) < 2:
        return np.asarray(rates <= np.where(is_known, MAX_KNOWN_RATE, MAX_REPEAT_RATE))
    is_shared = (shares > SHARED).sum(axis=0) > 1
    limit = np.where(is_shared, MAX_SHARED_RATE, MAX_OWN_RATE)
    return np.asarray(rates <= np.where(is_known, MAX_KNOWN_RATE, limit))


def in_english_list(terms: list[str]) -> Bool[np.ndarray, " n_terms"]:
    """Whether each term is in scikit-learn's list of English stop words."""
    return np.array([term in ENGLISH_STOP_WORDS for term in terms], np.bool_)


def _repeat_rate(
    terms: Int64[np.ndarray, " n"], neighbours: Int64[np.ndarray, " n"], n_terms: int
) -> NDArray[np.float64]:
    pairs, counts = np.unique(terms * n_terms + neighbours, return_counts=True)
    term = pairs // max(n_terms, 1)
    total = np.bincount(term, counts, n_terms)
    same = np.bincount(term, counts * (counts - 1.0), n_terms)
    return np.where(total < MIN_OCCURRENCES, 1.0, same / np.maximum(total * (total - 1), 1))
