"""TF-IDF with scikit-learn's weights, counted by compiled kernels over the bytes of the text."""

import logging
from typing import TYPE_CHECKING, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.text.blocks import Texts, map_threads, text_blocks
from analysis.text.characters import Tokens, checked_tokens
from analysis.text.terms.term_counts import TermCounter, TermCounts, stack

if TYPE_CHECKING:
    from scipy.sparse import csr_array

logger = logging.getLogger(__name__)


class Tfidf:
    """scikit-learn's TfidfVectorizer with lower-casing, smooth idf and L2 norm, and terms of every script.

    Vocabulary and weights equal scikit-learn's with `tokens="scikit-learn"`, and on ASCII text also with
    `tokens="unicode"`. There is one exception: among equally frequent terms at the `max_features` cut, the
    alphabetically first are kept, while scikit-learn's choice depends on an unstable sort.

    Args:
        max_features: number of terms kept; the most frequent ones are kept.
        min_df: smallest number of documents that a term must occur in. If no term reaches it, all are kept.
        sublinear_tf: whether to weight a term by 1 + log(count) instead of its count.
        tokens: what counts as a term: `unicode` or `scikit-learn`, see `analysis.text.characters`.

    Attributes:
        vocabulary_: the terms in alphabetical order.
        idf_: float64 [n_terms].
    """

    vocabulary_: list[str]
    idf_: NDArray[np.float64]

    def __init__(
        self,
        *,
        max_features: int | None = 20_000,
        min_df: int = 2,
        sublinear_tf: bool = True,
        tokens: Tokens = "unicode",
    ) -> None:
        if max_features is not None and max_features < 1:
            raise ValueError(f"max_features: expected at least 1 or None, got {max_features}")
        if min_df < 1:
            raise ValueError(f"min_df: expected a number of documents, at least 1, got {min_df}")
        self.max_features = max_features
        self.min_df = min_df
        self.sublinear_tf = sublinear_tf
        self.tokens: Tokens = checked_tokens(tokens)
        self._counter: TermCounter | None = None

    def fit(self, texts: Texts) -> Self:
        """Fit vocabulary and idf.

        Raises:
            ValueError: if no text has a term.
            TypeError: if `texts` does not hold text.
        """
        self.fit_transform(texts)
        return self

    def fit_transform(self, texts: Texts) -> "csr_array":
        """Fit, and return the same as `transform(texts)` without reading the texts again."""
        counter = TermCounter(tokens=self.tokens)
        blocks = [counter.learn(block) for block in text_blocks(texts)]
        terms, n_documents = counter.terms, sum(len(block.n_tokens) for block in blocks)
        if not terms:
            raise ValueError(f"expected texts with words of at least two characters, got none in {n_documents} texts")
        counts = stack(blocks)
        document_frequency = np.bincount(counts.indices, minlength=len(terms))
        frequency = np.bincount(counts.indices, counts.counts, minlength=len(terms))
        chosen = self._choose(terms, document_frequency, frequency)
        self.vocabulary_ = [terms[i] for i in chosen]
        self.idf_ = np.log((n_documents + 1) / (document_frequency[chosen] + 1)) + 1
        columns = np.full(len(terms), -1, np.int32)
        columns[chosen] = np.arange(len(chosen))
        return self._weigh(counts, columns)

    def transform(self, texts: Texts) -> "csr_array":
        """TF-IDF rows float32 [n_documents, n_terms] of L2 norm one. The column indices of a row are not sorted."""
        return self.weigh(self.count(texts))

    def count(self, texts: Texts) -> TermCounts:
        """Count how often each term of the vocabulary occurs in each document."""
        if self._counter is None or self._counter.terms != self.vocabulary_:
            self._counter = TermCounter(self.vocabulary_, self.tokens)
        return stack(list(map_threads(self._counter.count, text_blocks(texts))))

    def weigh(self, counts: TermCounts) -> "csr_array":
        """TF-IDF rows from the result of `count`."""
        return self._weigh(counts, np.arange(len(self.vocabulary_), dtype=np.int32))

    def count_weights(self, largest: int) -> NDArray[np.float64]:
        """Weights float64 [largest + 1] of a term that occurs 0, 1, ... times in a document, before idf."""
        counts = np.arange(largest + 1, dtype=np.float64)
        return 1 + np.log(np.maximum(counts, 1)) if self.sublinear_tf else counts

    def _choose(
        self, terms: list[str], document_frequency: NDArray[np.int64], frequency: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Indices of the terms to keep, in alphabetical order."""
        kept = np.flatnonzero(document_frequency >= self.min_df)
        if not kept.size:
            logger.warning("no term occurs in %d documents: all %d terms are kept", self.min_df, len(terms))
            kept = np.arange(len(terms))
        # Polars compares UTF-8 bytes, which have the same order as code points.
        kept = kept[pl.Series([terms[i] for i in kept], dtype=pl.String).arg_sort().to_numpy()]
        if self.max_features is not None and len(kept) > self.max_features:
            most_frequent = np.argsort(-frequency[kept], kind="stable")[: self.max_features]
            kept = kept[np.sort(most_frequent)]
        return np.asarray(kept, np.int64)

    def _weigh(self, counts: TermCounts, columns: NDArray[np.int32]) -> "csr_array":
        from scipy.sparse import csr_array

        from analysis.text.terms._terms import weigh_rows

        count_weights = self.count_weights(int(counts.counts.max(initial=0)))
        indptr, indices, values = weigh_rows(*counts[:3], columns, self.idf_, count_weights)
        return csr_array((values, indices, indptr), shape=(len(counts.n_tokens), len(self.vocabulary_)))
