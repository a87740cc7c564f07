"""Documents as hidden states: a language model's state at the end of each prompt, reduced to a few dimensions.

This module does not load a model. Callers pass an `Encoder` or the states.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from analysis.atomic_files import load_array, load_json, save_array, save_json
from analysis.features.vectoriser import EncodedFeatures
from analysis.text.blocks import Texts
from analysis.text.sampling import sample_texts

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Encoder = Callable[[list[str]], Floats]
"""Texts -> hidden states [n, d]."""


class HiddenStates(EncodedFeatures):
    """Hidden states, standardised, projected onto their leading principal components, each row scaled to L2 norm one.

    Standardisation is needed because a few dimensions of a language model's states are many times larger than the
    others.

    Args:
        n_components: number of dimensions of a document's vector.
        sample_size: number of distinct documents that `fit` uses.
        random_state: seed of this sample.
        encoder: function from texts to states; it is not saved. Without it, only states can be fitted and transformed.
        encoded_by: description of how the states were computed (base model, template, maximum number of tokens), so
            that states of new documents can be computed in the same way.

    Attributes:
        mean_, scale_: [d], mean and scale of the fitted states.
        components_: float32 [n_components, d]; rows beyond the rank of the sample are zero.

    Raises:
        ValueError: an argument is out of range.
    """

    mean_: Floats
    scale_: Floats
    components_: Floats

    def __init__(
        self,
        n_components: int = 64,
        *,
        sample_size: int = 10_000,
        random_state: int = 0,
        encoder: Encoder | None = None,
        encoded_by: dict[str, Any] | None = None,
    ) -> None:
        for name, value in (("n_components", n_components), ("sample_size", sample_size)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.n_components = n_components
        self.sample_size = sample_size
        self.random_state = random_state
        self.encoder = encoder
        self.encoded_by = encoded_by or {}

    def fit(self, texts: Texts) -> Self:
        """Fit on the states of a sample of texts. The order of the texts has no effect.

        Raises:
            ValueError: there is no encoder, or fewer than two texts have words.
        """
        sample = [text for text in sample_texts([texts], self.sample_size, self.random_state).to_pylist() if text]
        return self.fit_states(self._encoded(sample))

    def fit_states(self, states: Floats) -> Self:
        """Fit on states [n, d].

        Raises:
            ValueError: there are fewer than two rows, or a value is not finite.
        """
        from scipy.linalg import eigh

        rows = _checked(states)
        if len(rows) < 2:
            raise ValueError(f"states: expected at least two documents to learn from, got {len(rows)}")
        self.mean_ = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = rows.std(axis=0, dtype=np.float64).astype(np.float32)
        self.scale_ = np.where(spread > 1e-6, spread, 1).astype(np.float32)
        standardised = (rows - self.mean_) / self.scale_
        # Eigenvectors of the d x d covariance, because its size does not grow with the number of documents.
        scatter = standardised.T.astype(np.float64) @ standardised
        rank = min(self.n_components, len(rows) - 1, rows.shape[1])
        if rank < self.n_components:
            logger.warning("n_components is %d, but %s states have %d directions", self.n_components, rows.shape, rank)
        _, vectors = eigh(scatter, subset_by_index=[len(scatter) - rank, len(scatter) - 1])
        leading = vectors[:, ::-1].T  # the largest eigenvalue first
        signs = np.sign(
            leading[np.arange(rank), np.abs(leading).argmax(axis=1)]
        )  # an eigenvector has an arbitrary sign, so it is fixed here
        self.components_ = np.zeros((self.n_components, rows.shape[1]), np.float32)
        self.components_[:rank] = leading * signs[:, None]
        return self

    def transform_states(self, states: Floats) -> tuple[Floats, Floats]:
        """Vectors [n, n_components] of L2 norm one, and the share [n] of each state that they keep.

        Raises:
            ValueError: the states have another dimension than the fitted states, or a value is not finite.
        """
        rows = _checked(states)
        if rows.shape[1] != len(self.mean_):
            raise ValueError(
                f"states: expected {len(self.mean_)} numbers a document, as learnt from {self.encoded_by or 'others'}, "
                f"got {rows.shape[1]}; take the base model that the features were fitted with"
            )
        standardised = (rows - self.mean_) / self.scale_
        kept = standardised @ self.components_.T
        lengths = np.linalg.norm(kept, axis=1, keepdims=True)
        whole = np.linalg.norm(standardised, axis=1)
        explained = np.square(lengths[:, 0] / np.where(whole > 0, whole, 1))
        return np.asarray(kept / np.where(lengths > 0, lengths, 1), np.float32), explained.astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write `features.json`, `mean.npy`, `scale.npy` and `components.npy`; not the encoder."""
        folder = Path(folder)
        for name in ("mean", "scale", "components"):
            save_array(folder / f"{name}.npy", getattr(self, f"{name}_"))
        parameters = {
            name: getattr(self, name) for name in ("n_components", "sample_size", "random_state", "encoded_by")
        }
        save_json(folder / "features.json", {"kind": "hidden_states", "parameters": parameters})

    @classmethod
    def load(cls, folder: Path, encoder: Encoder | None = None) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: the shapes of the files do not match.
        """
        folder = Path(folder)
        features = cls(**load_json(folder / "features.json")["parameters"], encoder=encoder)
        features.mean_, features.scale_, features.components_ = (
            load_array(folder / f"{name}.npy") for name in ("mean", "scale", "components")
        )
        expected = (features.n_components, len(features.mean_))
        if features.components_.shape != expected or features.scale_.shape != expected[1:]:
            shapes = f"{features.components_.shape} and {features.scale_.shape}"
            raise ValueError(f"expected components {expected} and as many scales in {folder}, got {shapes}; fit again")
        return features

    def _encoded(self, texts: list[str]) -> Floats:
        if self.encoder is None:
            made_by = f" ({self.encoded_by})" if self.encoded_by else ""
            raise ValueError(
                f"these features are hidden states of a base model{made_by}, and there is none here to read texts. "
                f"Take the asset new_document_labels, which loads it, or the group model beside the adapter, which "
                f"reads the group off the text alone"
            )
        return self.encoder(texts)

    def _encode(self, texts: list[str]) -> tuple[Floats, Floats]:
        return self.transform_states(self._encoded(texts))


def _checked(states: Floats) -> Floats:
    rows = np.asarray(states, np.float32)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError(f"states: expected a finite matrix [n, d], got shape {list(rows.shape)} or values not finite")
    return rows
