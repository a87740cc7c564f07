"""Shared by all kinds of features: the protocol, blocks of rows, and statistics of the texts."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from analysis.text.blocks import Texts

logger = logging.getLogger(__name__)


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


class Features(Protocol):
    """Turns documents into rows of L2 norm one."""

    @property
    def n_components(self) -> int:
        """Number of dimensions of a row."""

    def fit(self, texts: Texts) -> Self:
        """Learn from texts."""

    def stream(self, batches: Iterable[Texts]) -> Iterator[FeatureBlock]:
        """Yield the rows of all batches' documents in order, block by block. Memory does not grow with their number."""

    def transform(self, texts: Texts) -> NDArray[np.float32]:
        """Rows [n, n_components] of all documents; logs what is unusual about the texts."""

    def save(self, folder: Path) -> None:
        """Write everything that `load` needs."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""


def transform(features: Features, texts: Texts) -> NDArray[np.float32]:
    """The rows of `features.stream` as one array [n, n_components]; logs what is unusual about the texts."""
    blocks = list(features.stream([texts]))
    sum((block.statistics for block in blocks), TextStatistics()).log_oddities()
    return np.concatenate([np.empty((0, features.n_components), np.float32), *(block.features for block in blocks)])
