"""Documents as vectors: TF-IDF, projected onto its leading singular directions, each row scaled to length one."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

Texts = pl.Series | pa.Array | pa.ChunkedArray | Sequence[str]
logger = logging.getLogger(__name__)


class TfidfLsa:
    """TF-IDF -> truncated SVD -> L2 norm (latent semantic analysis), fitted on a sample of the documents.

    Args:
        n_components: length of a document's vector.
        max_features: terms kept, the most frequent ones.
        min_df: fewest sampled documents a term must occur in.
        sublinear_tf: weigh a term by 1 + log(count) instead of its count.
        sample_size: documents the vocabulary, idf and projection are learnt from.
        random_state: seed of the randomised SVD and of the sample.

    Attributes:
        vocabulary_: the terms, in alphabetical order.
        idf_: [n_features].
        components_: [n_components, n_features].
    """

    vocabulary_: list[str]
    idf_: NDArray[np.float64]
    components_: NDArray[np.float32]

    def __init__(
        self,
        n_components: int = 32,
        *,
        max_features: int = 20_000,
        min_df: int = 2,
        sublinear_tf: bool = True,
        sample_size: int = 10_000,
        random_state: int = 0,
    ) -> None:
        self.n_components = n_components
        self.max_features = max_features
        self.min_df = min_df
        self.sublinear_tf = sublinear_tf
        self.sample_size = sample_size
        self.random_state = random_state

    def fit(self, texts: Texts) -> Self:
        """Learn vocabulary, idf and projection from a sample of `texts`."""
        from sklearn.utils.extmath import randomized_svd

        documents = np.asarray(_as_list(texts), dtype=object)
        if len(documents) > self.sample_size:
            rows = np.random.default_rng(self.random_state).choice(len(documents), self.sample_size, replace=False)
            documents = documents[np.sort(rows)]
        vectoriser = self._vectoriser()
        tfidf = vectoriser.fit_transform(documents)
        self.vocabulary_ = vectoriser.get_feature_names_out().tolist()
        self.idf_ = vectoriser.idf_
        rank = min(self.n_components, *tfidf.shape)
        _, _, directions = randomized_svd(tfidf, rank, random_state=self.random_state)
        self.components_ = np.zeros((self.n_components, tfidf.shape[1]), np.float32)
        self.components_[:rank] = directions
        return self

    def transform(self, texts: Texts) -> NDArray[np.float32]:
        """Vectors [n, n_components] of length one; zero for documents without a known term (logged)."""
        vectoriser = self._vectoriser(vocabulary=self.vocabulary_)
        vectoriser.idf_ = self.idf_
        features = np.asarray(vectoriser.transform(_as_list(texts)) @ self.components_.T, dtype=np.float32)
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        if zero_rows := int((norms == 0).sum()):
            logger.warning("%d of %d documents have no known term: their rows are zero", zero_rows, len(features))
        return features / np.where(norms == 0, 1, norms)

    def save(self, folder: Path) -> None:
        """Write the vectoriser as JSON and npy into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "idf.npy", self.idf_, allow_pickle=False)
        np.save(folder / "components.npy", self.components_, allow_pickle=False)
        parameters = {name: getattr(self, name) for name in self.__init__.__kwdefaults__}  # type: ignore[misc]
        settings = {"n_components": self.n_components, **parameters, "vocabulary": self.vocabulary_}
        (folder / "features.json").write_text(json.dumps(settings), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a vectoriser written by `save`."""
        settings = json.loads((Path(folder) / "features.json").read_text(encoding="utf-8"))
        vocabulary = settings.pop("vocabulary")
        features = cls(**settings)
        features.vocabulary_ = vocabulary
        features.idf_ = np.load(Path(folder) / "idf.npy", allow_pickle=False)
        features.components_ = np.load(Path(folder) / "components.npy", allow_pickle=False)
        return features

    def _vectoriser(self, vocabulary: list[str] | None = None):  # type: ignore[no-untyped-def]
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(
            min_df=self.min_df,
            max_features=self.max_features,
            sublinear_tf=self.sublinear_tf,
            vocabulary=vocabulary,
            dtype=np.float32,
        )


def _as_list(texts: Texts) -> Sequence[str]:
    return texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else list(texts)
