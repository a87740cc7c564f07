"""Shared by all kinds of features: their base class, blocks of rows, and statistics of the texts."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from analysis.text.blocks import TextBlock, Texts, text_blocks

logger = logging.getLogger(__name__)

# A network holds activations for each document of a block, so its blocks are small.
_ENCODED_BYTES = 1 << 18


@dataclass(frozen=True)
class TextStatistics:
    """Counts over texts, including everything unusual that a reader should know about.

    Attributes:
        n_null: documents that were null; they count as empty.
        n_invalid: documents that were not valid UTF-8; invalid bytes become replacement characters.
        n_without_words: documents without a word (of at least two characters).
        n_without_known_terms: documents with words, but none in the vocabulary.
    """

    n_documents: int = 0
    n_null: int = 0
    n_invalid: int = 0
    n_without_words: int = 0
    n_without_known_terms: int = 0
    n_tokens: int = 0
    n_known_tokens: int = 0

    def __add__(self, other: "TextStatistics") -> "TextStatistics":
        return TextStatistics(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def unknown_token_share(self) -> float:
        """Share of the words that are not in the vocabulary."""
        return 1 - self.n_known_tokens / self.n_tokens if self.n_tokens else 0.0

    def log_oddities(self) -> None:
        """Log a warning for everything that was probably not intended."""
        oddities = {
            "null": self.n_null,
            "not valid UTF-8": self.n_invalid,
            "without a word": self.n_without_words,
            "without a known word": self.n_without_known_terms,
        }
        if any(oddities.values()):
            found = ", ".join(f"{count} {what}" for what, count in oddities.items() if count)
            logger.warning("of %d documents, %s; documents without a known word are zero rows", self.n_documents, found)


@dataclass(frozen=True)
class FeatureBlock:
    """Features of consecutive documents.

    Attributes:
        features: float32 [n_documents, n_components].
        explained: float32 [n_documents], share of a document that its features keep. It is low for documents unlike
            those that the features were fitted on. It is zero if unknown: for documents without words, and for features
            that are not fitted.
    """

    features: NDArray[np.float32]
    explained: NDArray[np.float32]
    statistics: TextStatistics


class Features(ABC):
    """Turns documents into rows of L2 norm one (at most one for joint features).

    Attributes:
        n_components: number of dimensions of a row.
    """

    n_components: int

    @abstractmethod
    def fit(self, texts: Texts) -> Self:
        """Learn from texts."""

    @abstractmethod
    def stream(self, batches: Iterable[Texts]) -> Iterator[FeatureBlock]:
        """Yield the rows of all batches' documents in order, block by block. Memory does not grow with their number."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything that `load` needs."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""

    def transform(self, texts: Texts) -> Float32[np.ndarray, "n d"]:
        """Rows [n, n_components] of all documents; zero for documents without a known word. Logs what is odd."""
        blocks = list(self.stream([texts]))
        sum((block.statistics for block in blocks), TextStatistics()).log_oddities()
        return np.concatenate([np.empty((0, self.n_components), np.float32), *(block.features for block in blocks)])


class EncodedFeatures(Features):
    """Features that a neural network computes, for all documents that have text."""

    def stream(self, batches: Iterable[Texts]) -> Iterator[FeatureBlock]:
        """Yield the rows of all batches' documents in order, block by block."""
        for batch in batches:
            yield from map(self._block, text_blocks(batch, _ENCODED_BYTES))

    @abstractmethod
    def _encode(self, texts: list[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Rows [n, n_components] of texts, and the share [n] of each that they keep."""

    def _block(self, block: TextBlock) -> FeatureBlock:
        texts = block.take(np.arange(len(block))).to_pylist()
        has_text = np.array([bool(text.strip()) for text in texts], bool)
        features = np.zeros((len(block), self.n_components), np.float32)
        explained = np.zeros(len(block), np.float32)
        if has_text.any():
            present = [text for text, has in zip(texts, has_text, strict=True) if has]
            features[has_text], explained[has_text] = self._encode(present)
        statistics = TextStatistics(len(block), block.n_null, block.n_invalid, int((~has_text).sum()))
        return FeatureBlock(features, explained, statistics)
