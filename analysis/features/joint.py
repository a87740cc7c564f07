"""Documents as several views side by side: words of the prompt, words of the answer, and perhaps a hidden state."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.atomic_files import load_json, save_json
from analysis.features import vectoriser
from analysis.features.hidden_states import Encoder, HiddenStates
from analysis.features.lsa import TfidfLsa
from analysis.features.vectoriser import FeatureBlock, Features
from analysis.text.blocks import TextBlock, Texts, text_blocks
from analysis.text.characters import Tokens
from analysis.text.pairs import parts
from analysis.text.sampling import sample_texts

PROMPT, ANSWER, HIDDEN = "prompt", "answer", "hidden"
PROMPT_COMPONENTS, ANSWER_COMPONENTS = 128, 64


class JointFeatures:
    """Views of a prompt and its answer, each a row of L2 norm one, side by side and scaled to L2 norm one in all.

    Texts are those of `analysis.corpus.document_text("pair")`. A document lacks a view if it has no known word there;
    its row is then shorter.

    Args:
        hidden: hidden states of the prompt as a third view, with their encoder; None for words alone.
        n_components: number of dimensions of the prompt's words, and of the answer's.
        max_features: number of terms kept of each.
        tokens: what counts as a term; see `analysis.text.characters`.
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
        self.views: dict[str, Features] = {
            name: TfidfLsa(
                size, max_features=max_features, tokens=tokens, sample_size=sample_size, random_state=random_state
            )
            for name, size in zip((PROMPT, ANSWER), n_components, strict=True)
        }
        if hidden is not None:
            self.views[HIDDEN] = hidden

    @property
    def n_components(self) -> int:
        """Number of dimensions of all views together."""
        return sum(view.n_components for view in self.views.values())

    def fit(self, texts: Texts) -> Self:
        """Fit each view on a sample of the documents. The order of the texts has no effect.

        Raises:
            ValueError: prompts or answers have no word that two documents share.
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

    def transform(self, texts: Texts) -> NDArray[np.float32]:
        """Vectors [n, n_components] of L2 norm at most one; what is odd about the texts is logged."""
        return vectoriser.transform(self, texts)

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
        features.views = {
            name: HiddenStates.load(Path(folder) / name, encoder)
            if name == HIDDEN
            else TfidfLsa.load(Path(folder) / name)
            for name in saved["views"]
        }
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
                statistics = sum((b.statistics for b in blocks), vectoriser.TextStatistics())
        scale = np.float32(len(rows) ** -0.5)
        return FeatureBlock(np.hstack(rows) * scale, np.mean(explained, axis=0, dtype=np.float32), statistics)
