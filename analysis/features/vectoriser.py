"""What every kind of features has in common: blocks of rows, what was odd about the texts, and how to load them."""

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
    """Counts over texts, among them everything that a careful reader wants to know was there.

    Attributes:
        n_documents: all of them.
        n_null: were null; taken as empty.
        n_invalid: were not valid UTF-8; the invalid bytes are taken as replacement characters.
        n_without_words: have no word (of two characters).
        n_without_known_terms: have words, none of which the vocabulary has.
        n_tokens: words.
        n_known_tokens: words that are in the vocabulary.
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
        """Share of the words that the vocabulary does not have."""
        return 1 - self.n_known_tokens / self.n_tokens if self.n_tokens else 0.0

    def log_oddities(self) -> None:
        """Log a warning for what has probably not been meant."""
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
    """Consecutive documents.

    Attributes:
        features: float32 [n_documents, n_components].
        explained: float32 [n_documents], the share of a document that its features keep: low for documents unlike
            those the features were fitted on. Zero where that is not known: no word, or features that are not fitted.
        statistics: of the texts.
    """

    features: NDArray[np.float32]
    explained: NDArray[np.float32]
    statistics: TextStatistics


class Features(Protocol):
    """Turns documents into rows of length one."""

    n_components: int

    def fit(self, texts: Texts) -> Self:
        """Learn from texts."""

    def stream(self, batches: Iterable[Texts]) -> Iterator[FeatureBlock]:
        """Rows of the documents of all batches, in order, block by block: memory does not grow with their number."""

    def transform(self, texts: Texts) -> NDArray[np.float32]:
        """Rows of all documents [n, n_components]; what is odd about the texts is logged."""

    def save(self, folder: Path) -> None:
        """Write all that `load` needs."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""


def transform(features: Features, texts: Texts) -> NDArray[np.float32]:
    """The rows of `features.stream` put together, with a log line on what is odd."""
    blocks = list(features.stream([texts]))
    sum((block.statistics for block in blocks), TextStatistics()).log_oddities()
    return np.concatenate([np.empty((0, features.n_components), np.float32), *(block.features for block in blocks)])
