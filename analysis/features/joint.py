"""Documents as several views side by side: words of the prompt, the answer, and perhaps a hidden state."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.atomic_files import load_array, load_json, save_array, save_json
from analysis.features.hidden_states import Encoder, HiddenStates
from analysis.features.lsa import TfidfLsa, leading_directions
from analysis.features.vectoriser import FeatureBlock, Features, TextStatistics
from analysis.text.blocks import TextBlock, Texts, text_blocks
from analysis.text.characters import Tokens
from analysis.text.pairs import parts
from analysis.text.sampling import sample_texts

PROMPT, ANSWER, HIDDEN = "prompt", "answer", "hidden"
PROMPT_COMPONENTS, ANSWER_COMPONENTS = 128, 64
ANSWER_TERMS = r"\w+|[^\w\s]"
"""Words of any length, and signs. An answer may be "B" or "7", and case and signs distinguish code from prose."""


class AnswerTerms(Features):
    """scikit-learn's TF-IDF of `ANSWER_TERMS`, in their case, and truncated SVD; each row scaled to L2 norm one.

    Args:
        n_components: number of dimensions of an answer's vector.
        max_features: number of terms kept.
        random_state: seed of the SVD.

    Attributes:
        components_: float32 [n_components, n_terms]; rows beyond the rank of the answers are zero.
    """

    components_: NDArray[np.float32]

    def __init__(
        self, n_components: int = ANSWER_COMPONENTS, *, max_features: int = 20_000, random_state: int = 0
    ) -> None:
        self.n_components = n_components
        self.max_features = max_features
        self.random_state = random_state

    def fit(self, texts: Texts) -> Self:
        """Fit terms, their weights and the directions.

        Raises:
            ValueError: no answer has a term.
        """
        self._tfidf = _tfidf(max_features=self.max_features)
        matrix = self._tfidf.fit_transform(_listed(texts))
        directions = leading_directions(matrix, self.n_components, self.random_state)
        self.components_ = np.zeros((self.n_components, matrix.shape[1]), np.float32)
        self.components_[: len(directions)] = directions
        return self

    def stream(self, batches: Iterable[Texts]) -> Iterator[FeatureBlock]:
        """Yield the vectors of all batches' answers in order."""
        for batch in batches:
            yield self._block(_listed(batch))

    def save(self, folder: Path) -> None:
        """Write `features.json`, `vocabulary.json`, `idf.npy` and `components.npy`."""
        folder = Path(folder)
        save_array(folder / "idf.npy", self._tfidf.idf_)
        save_array(folder / "components.npy", self.components_)
        save_json(folder / "vocabulary.json", self._tfidf.get_feature_names_out().tolist())
        parameters = {name: getattr(self, name) for name in ("n_components", "max_features", "random_state")}
        save_json(folder / "features.json", {"kind": "answer_terms", "parameters": parameters})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        folder = Path(folder)
        features = cls(**load_json(folder / "features.json")["parameters"])
        features._tfidf = _tfidf(vocabulary=load_json(folder / "vocabulary.json"))
        features._tfidf.idf_ = load_array(folder / "idf.npy")
        features.components_ = load_array(folder / "components.npy")
        return features

    def _block(self, texts: list[str]) -> FeatureBlock:
        rows = np.asarray(self._tfidf.transform(texts) @ self.components_.T, np.float32)
        lengths: NDArray[np.float32] = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
        statistics = TextStatistics(len(texts), n_without_known_terms=int((lengths == 0).sum()))
        # TF-IDF rows have L2 norm one, so the squared length of a projected row is the share that the directions keep.
        explained = np.square(lengths[:, 0])
        lengths[lengths == 0] = 1
        return FeatureBlock(rows / lengths, explained, statistics)


def _tfidf(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        token_pattern=ANSWER_TERMS, lowercase=False, sublinear_tf=True, min_df=2, dtype=np.float32, **options
    )


def _listed(texts: Texts) -> list[str]:
    return pl.Series(texts, dtype=pl.String).fill_null("").to_list()


class JointFeatures(Features):
    """Views of a prompt and its answer. Each view is a row of L2 norm one. They stand side by side, and the whole row
    is scaled to L2 norm one.

    Texts are those of `analysis.corpus.document_text("pair")`. If a document has no known word in a view, this view is
    zero, and the norm of the row is below one.

    Args:
        hidden: hidden states of the prompt as a third view, with their encoder; None for words alone.
        n_components: number of dimensions of the prompt's words, and of the answer's terms.
        max_features: number of terms kept of each.
        tokens: what counts as a word of the prompt; see `analysis.text.characters`.
        sample_size: number of distinct documents that `fit` uses.
        random_state: seed of this sample and of the views.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        hidden: HiddenStates | None = None,
        *,
        n_components: tuple[int, int] = (PROMPT_COMPONENTS, ANSWER_COMPONENTS),
        max_features: int = 20_000,
        tokens: Tokens = "unicode",
        sample_size: int = 10_000,
        random_state: int = 0,
    ) -> None:
        self.sample_size = sample_size
        self.random_state = random_state
        options: dict[str, Any] = {"max_features": max_features, "random_state": random_state}
        self.views: dict[str, Features] = {
            PROMPT: TfidfLsa(n_components[0], tokens=tokens, sample_size=sample_size, **options),
            ANSWER: AnswerTerms(n_components[1], **options),
        }
        if hidden is not None:
            self.views[HIDDEN] = hidden

    @property
    def n_components(self) -> int:  # type: ignore[override]
        """Number of dimensions of all views together."""
        return sum(view.n_components for view in self.views.values())

    def fit(self, texts: Texts) -> Self:
        """Fit each view on a sample of the documents. The order of the texts has no effect.

        Raises:
            ValueError: prompts have no words, or answers have no term that two of them share.
        """
        sample = sample_texts([texts], self.sample_size, self.random_state)
        for name, part in self._parts(pl.Series(sample, dtype=pl.String)).items():
            try:
                self.views[name].fit(part)
            except ValueError as error:
                raise ValueError(
                    f"the view of each document's {name}: {error}; take features of another kind"
                ) from error
        return self

    def stream(self, batches: Iterable[Texts]) -> Iterator[FeatureBlock]:
        """Yield the vectors of all batches' documents in order, block by block."""
        for batch in batches:
            yield from map(self._block, text_blocks(batch))

    def save(self, folder: Path) -> None:
        """Write `features.json`, and each view into a folder of its name."""
        for name, view in self.views.items():
            view.save(Path(folder) / name)
        parameters = {"sample_size": self.sample_size, "random_state": self.random_state}
        save_json(Path(folder) / "features.json", {"kind": "joint", "parameters": parameters, "views": [*self.views]})

    @classmethod
    def load(cls, folder: Path, encoder: Encoder | None = None) -> Self:
        """Read what `save` wrote; `encoder` as of `HiddenStates.load`."""
        saved = load_json(Path(folder) / "features.json")
        features = cls(**saved["parameters"])
        kinds: dict[str, Callable[[Path], Features]]
        kinds = {PROMPT: TfidfLsa.load, ANSWER: AnswerTerms.load, HIDDEN: lambda of: HiddenStates.load(of, encoder)}
        features.views = {name: kinds[name](Path(folder) / name) for name in saved["views"]}
        return features

    def _parts(self, texts: pl.Series) -> dict[str, pl.Series]:
        """View -> what it reads of each document."""
        prompts, answers = parts(texts)
        return {name: answers if name == ANSWER else prompts for name in self.views}

    def _block(self, block: TextBlock) -> FeatureBlock:
        texts = pl.Series(block.take(np.arange(len(block))), dtype=pl.String)
        rows, explained = [], []
        for name, part in self._parts(texts).items():
            blocks = list(self.views[name].stream([part]))
            rows.append(np.concatenate([b.features for b in blocks]))
            explained.append(np.concatenate([b.explained for b in blocks]))
            if name == PROMPT:
                statistics = sum((b.statistics for b in blocks), TextStatistics())
        scale = np.float32(len(rows) ** -0.5)
        return FeatureBlock(np.hstack(rows) * scale, np.mean(explained, axis=0, dtype=np.float32), statistics)
