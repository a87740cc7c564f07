"""The tail of small tasks as files of `num_clusters`, and the place of each document in it."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pipelines.store.artifacts import Artifact, Draft

if TYPE_CHECKING:
    from analysis.clusters.tail import Communities, TailSplit

FOLDER, OF_TRAINING = "tail", "tail/of_training"


def save_tail(draft: Draft, split_off: "TailSplit") -> None:
    """Write the communities of a corpus, and the community of each training document."""
    assert split_off.communities is not None
    split_off.communities.save(draft.folder / FOLDER)
    draft.write_array(OF_TRAINING, split_off.of_row)


def load_tail(num_clusters: Artifact) -> "tuple[Communities, np.ndarray] | None":
    """What `save_tail` wrote; None if no cluster is the tail."""
    from analysis.clusters.tail import Communities

    communities = Communities.load(num_clusters.folder / FOLDER)
    return None if communities is None else (communities, num_clusters.array(OF_TRAINING))


def tail_parts(cluster_labels: Artifact) -> pl.DataFrame | None:
    """The parts of the tail (`analysis.clusters.description.describe_tail`); None if no cluster is the tail."""
    return cluster_labels.read("tail") if (cluster_labels.folder / "tail.parquet").exists() else None


def documents_in_tail(
    communities: "Communities", of_training: np.ndarray, features: np.ndarray, is_train: np.ndarray
) -> np.ndarray:
    """Whether each document belongs to the tail, [n]: a training document by its own community, others by the nearest.

    Args:
        of_training: [n_train], community of each training document.
        features: [n, d].
        is_train: [n].
    """
    in_tail = communities.in_tail(features)
    in_tail[is_train] = communities.is_small[of_training]
    return in_tail
