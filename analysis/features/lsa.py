"""Documents as vectors: TF-IDF projected onto its leading singular vectors, each row scaled to L2 norm one."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from analysis.atomic_files import load_array, load_json, save_array, save_json
from analysis.features.vectoriser import FeatureBlock, Features, TextStatistics
from analysis.text.blocks import TextBlock, Texts, map_threads, text_blocks
from analysis.text.characters import Tokens
from analysis.text.sampling import sample_texts
from analysis.text.terms.term_counts import TermCounter
from analysis.text.terms.tfidf import Tfidf

if TYPE_CHECKING:
    from scipy.sparse import csr_array

logger = logging.getLogger(__name__)


class TfidfLsa(Features):
    """Latent semantic analysis, TF-IDF -> truncated SVD -> L2 norm, fitted on a sample of the documents.

    Args:
        n_components: number of dimensions of a document's vector.
        max_features: number of terms kept; the most frequent ones are kept.
        min_df: smallest number of sampled documents that a term must occur in.
        sublinear_tf: whether to weight a term by 1 + log(count) instead of its count.
        tokens: what counts as a term: `unicode` or `scikit-learn`, see `analysis.text.characters`.
        sample_size: number of distinct documents that vocabulary, idf and projection are fitted on (see
            `sample_texts`).
        random_state: seed of the sample and of the randomised SVD.

    Attributes:
        vocabulary_: the terms in alphabetical order.
        idf_: float64 [n_features].
        components_: float32 [n_components, n_features], singular vectors; rows beyond the rank of the sample are zero.

    Raises:
        ValueError: an argument is out of range.
    """

    components_: NDArray[np.float32]

    def __init__(
        self,
        n_components: int = 32,
        *,
        max_features: int = 20_000,
        min_df: int = 2,
        sublinear_tf: bool = True,
        tokens: Tokens = "unicode",
        sample_size: int = 10_000,
        random_state: int = 0,
    ) -> None:
        if n_components < 1:
            raise ValueError(f"n_components: expected at least 1, got {n_components}")
        self.n_components = n_components
        self.sample_size = sample_size
        self.random_state = random_state
        self._tfidf = Tfidf(max_features=max_features, min_df=min_df, sublinear_tf=sublinear_tf, tokens=tokens)

    @property
    def vocabulary_(self) -> list[str]:
        """The terms in alphabetical order."""
        return self._tfidf.vocabulary_

    @property
    def idf_(self) -> NDArray[np.float64]:
        """Inverse document frequency of each term, float64 [n_features]."""
        return self._tfidf.idf_

    def fit(self, texts: Texts) -> Self:
        """Fit vocabulary, idf and projection. The order of `texts` has no effect.

        Raises:
            ValueError: no text has a term.
            TypeError: `texts` does not hold text.
        """
        tfidf = self._tfidf.fit_transform(sample_texts([texts], self.sample_size, self.random_state))
        rank = min(self.n_components, *tfidf.shape)
        if rank < self.n_components:
            logger.warning(
                "n_components is %d, but %d documents with %d terms have %d directions at most",
                self.n_components,
                *tfidf.shape,
                rank,
            )
        self.components_ = np.zeros((self.n_components, tfidf.shape[1]), np.float32)
        self.components_[:rank] = leading_directions(tfidf, rank, self.random_state)
        self._prepare()
        return self

    def stream(self, batches: Iterable[Texts]) -> Iterator[FeatureBlock]:
        """Yield the vectors of all batches' documents in order. Only a few blocks are in memory at a time."""
        return map_threads(self._project, (block for batch in batches for block in text_blocks(batch)))

    def term_rows(self, texts: Texts) -> "tuple[csr_array, NDArray[np.int64], NDArray[np.int64]]":
        """TF-IDF rows [n, n_features] of L2 norm one, the number of words [n] and the number of known words [n]."""
        counts = self._tfidf.count(texts)
        known = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts.counts, dtype=np.int64)])
        return self._tfidf.weigh(counts), counts.n_tokens, np.diff(known[counts.indptr])

    def save(self, folder: Path) -> None:
        """Write `features.json`, `vocabulary.json`, `idf.npy` and `components.npy` into `folder`."""
        folder = Path(folder)
        save_array(folder / "idf.npy", self.idf_)
        save_array(folder / "components.npy", self.components_)
        save_json(folder / "vocabulary.json", self.vocabulary_)
        parameters = {
            "n_components": self.n_components,
            "max_features": self._tfidf.max_features,
            "min_df": self._tfidf.min_df,
            "sublinear_tf": self._tfidf.sublinear_tf,
            "tokens": self._tfidf.tokens,
            "sample_size": self.sample_size,
            "random_state": self.random_state,
        }
        save_json(folder / "features.json", {"kind": "tfidf_lsa", "parameters": parameters})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: the shapes of the files do not match.
        """
        folder = Path(folder)
        # Older features have no `tokens`; they were fitted with scikit-learn's tokens.
        features = cls(**{"tokens": "scikit-learn", **load_json(folder / "features.json")["parameters"]})
        features._tfidf.vocabulary_ = load_json(folder / "vocabulary.json")
        features._tfidf.idf_ = load_array(folder / "idf.npy")
        features.components_ = load_array(folder / "components.npy")
        expected = (features.n_components, len(features.vocabulary_))
        if features.components_.shape != expected or features.idf_.shape != expected[1:]:
            shapes = f"{features.components_.shape} and {features.idf_.shape}"
            raise ValueError(f"expected components {expected} and as many idf in {folder}, got {shapes}; fit again")
        features._prepare()
        return features

    def _prepare(self) -> None:
        # Frequent terms come first, so that most look-ups hit nearby memory.
        order = np.argsort(self.idf_, kind="stable")
        self._counter = TermCounter([self.vocabulary_[i] for i in order], self._tfidf.tokens)
        self._directions = np.ascontiguousarray(self.components_.T[order])
        self._ordered_idf = self.idf_[order].astype(np.float32)

    def _project(self, block: TextBlock) -> FeatureBlock:
        from analysis.text.terms._terms import project_rows

        rows = self._counter.count(block)
        count_weights = self._tfidf.count_weights(int(rows.counts.max(initial=0))).astype(np.float32)
        has_no_terms = np.diff(rows.indptr) == 0
        statistics = TextStatistics(
            n_documents=len(block),
            n_null=block.n_null,
            n_invalid=block.n_invalid,
            n_without_words=int((rows.n_tokens == 0).sum()),
            n_without_known_terms=int((has_no_terms & (rows.n_tokens > 0)).sum()),
            n_tokens=int(rows.n_tokens.sum()),
            n_known_tokens=int(rows.counts.sum()),
        )
        features, explained = project_rows(*rows[:3], count_weights, self._ordered_idf, self._directions)
        return FeatureBlock(features, explained, statistics)


def leading_directions(
    matrix: "csr_array", n_components: int, random_state: int
) -> Float32[np.ndarray, "components terms"]:
    """The leading right singular vectors [n_components, n_features], or as many as there are."""
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # the last bits depend on the number of threads
        _, _, directions = randomized_svd(matrix, min(n_components, *matrix.shape), n_iter=4, random_state=random_state)
    return np.asarray(directions, np.float32)
