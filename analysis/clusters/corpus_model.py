"""The vectoriser and the cluster centres of a corpus: together they assign documents, old and new, to clusters."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.atomic_files import load_array, load_json, save_array, save_json
from analysis.features.hidden_states import Encoder
from analysis.features.loading import load_features
from analysis.features.vectoriser import Features, TextStatistics
from analysis.text.blocks import Texts

if TYPE_CHECKING:
    from analysis.clusters.tail import Communities


@dataclass(frozen=True)
class AssignedBlock:
    """Consecutive documents and their clusters.

    Attributes:
        labels: [n_documents], number of the nearest centre, or of the tail.
        squared_distances: [n_documents], squared distance to that centre, or to the nearest part of the tail, 0 to 4.
        explained: [n_documents], share of a document that its features keep (see `FeatureBlock`).
    """

    labels: NDArray[np.int32]
    squared_distances: NDArray[np.float64]
    explained: NDArray[np.float32]
    statistics: TextStatistics


class CorpusModel:
    """K-means clusters in the space of fitted features.

    A document without a known word is a zero row. It gets the cluster whose centre is nearest to zero (the broadest
    one) and is counted in the statistics.

    Args:
        centers: [n_clusters, n_components].
        text: which text of a document is clustered; see `analysis.corpus.document_text`.
        communities: of a corpus whose last cluster is the tail: documents that are nearest to a small one belong to it.

    Raises:
        ValueError: the shape of the centres does not match the features, or a centre is not finite.
    """

    def __init__(
        self, features: Features, centers: ArrayLike, text: str = "prompt", communities: "Communities | None" = None
    ) -> None:
        self.features = features
        self.text = text
        self.communities = communities
        self.centers: NDArray[np.float32] = np.array(centers, np.float32)
        if self.centers.ndim != 2 or self.centers.shape[1] != features.n_components or not len(self.centers):
            expected = f"[n_clusters, {features.n_components}]"
            raise ValueError(f"centers: expected shape {expected}, got {list(self.centers.shape)}")
        if not np.isfinite(self.centers).all():
            raise ValueError("centers: expected finite numbers, got infinity or NaN")

    @property
    def n_groups(self) -> int:
        """Number of groups, for the protocol `GroupModel`: the number of clusters."""
        return self.n_clusters

    @property
    def n_clusters(self) -> int:
        """Number of clusters, the tail included."""
        return len(self.centers) + (self.communities is not None)

    def assign(self, texts: Texts) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Cluster [n] of each document and squared distance [n] to its centre; logs what is odd about the texts."""
        blocks = list(self.stream([texts]))
        sum((block.statistics for block in blocks), TextStatistics()).log_oddities()
        labels = np.concatenate([np.empty(0, np.int32), *(block.labels for block in blocks)])
        return labels, np.concatenate([np.empty(0), *(block.squared_distances for block in blocks)])

    def stream(self, batches: Iterable[Texts]) -> Iterator[AssignedBlock]:
        """Assign the documents of all batches, in order. Memory does not grow with their number."""
        from analysis.clusters.tail import assign_with_tail

        for block in self.features.stream(batches):
            labels, squared_distances = assign_with_tail(block.features, self.centers, self.communities)
            yield AssignedBlock(labels, squared_distances, block.explained, block.statistics)

    def soft_assign(self, texts: Texts, temperature: float) -> NDArray[np.float32]:
        """Soft cluster weights [n, n_clusters]: softmax of -(squared distance) / temperature.

        Raises:
            ValueError: `temperature` is not positive, or a cluster is the tail.
        """
        if self.communities is not None:
            raise ValueError(
                "expected clusters with a centre each, got a tail, which has none; take a prompt classifier"
            )
        if not temperature > 0:
            raise ValueError(f"temperature: expected a positive number, got {temperature}; `assign` is its limit at 0")
        rows = self.features.transform(texts)
        # The squared length of a row is the same for all clusters, so it cancels.
        logits = (2 * rows @ self.centers.T - (self.centers**2).sum(axis=1)) / temperature
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)

    def save(self, folder: Path) -> None:
        """Write `corpus_model.json`, `centers.npy`, the features' files, and those of communities, into `folder`."""
        self.features.save(Path(folder))
        save_array(Path(folder) / "centers.npy", self.centers)
        if self.communities is not None:
            self.communities.save(folder)
        save_json(Path(folder) / "corpus_model.json", {"text": self.text})

    @classmethod
    def load(cls, folder: Path, encoder: Encoder | None = None) -> Self:
        """Read what `save` wrote; `encoder` as of `load_features`."""
        from analysis.clusters.tail import Communities

        centers = load_array(Path(folder) / "centers.npy")
        values, communities = load_json(Path(folder) / "corpus_model.json"), Communities.load(folder)
        return cls(load_features(folder, encoder), centers, **values, communities=communities)
