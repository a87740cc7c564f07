"""Clusters edited by a person, who merges clusters of one subject and splits clusters of several subjects."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.clusters.kmeans import assign, sweep_kmeans


def edit_problem(n_clusters: int, merge: Sequence[Sequence[int]], split: Mapping[int, int]) -> str | None:
    """What is wrong with these edits of clusters 0 to `n_clusters - 1`, in words; None if they can be made."""
    named = [*(cluster for group in merge for cluster in group), *split]
    unknown = sorted({cluster for cluster in named if not 0 <= cluster < n_clusters})
    if unknown:
        return f"expected clusters from 0 to {n_clusters - 1}, got {unknown}"
    twice = sorted({cluster for cluster in named if named.count(cluster) > 1})
    if twice:
        return f"expected each cluster once, got {twice} more than once"
    if any(len(group) < 2 for group in merge):
        return f"expected at least two clusters in each list to merge, got {[list(group) for group in merge]}"
    if any(parts < 2 for parts in split.values()):
        return f"expected at least two parts of a cluster to split, got {dict(split)}"
    return None


def edited_centers(
    X: ArrayLike,
    centers: ArrayLike,
    merge: Sequence[Sequence[int]] = (),
    split: Mapping[int, int] | None = None,
    random_state: int = 0,
) -> NDArray[np.float32]:
    """Centres after edits: first the clusters in their order (a merged one at its first place), then the further parts.

    A merged cluster has the mean of its documents as its centre. A split one has the centres that K-means finds among
    its own documents. Every document then belongs to the nearest centre, so a few documents at the border of an edited
    cluster may change to a neighbour.

    Args:
        X: [n, d], the rows that the clusters were fitted to.
        centers: [K, d].
        merge: lists of clusters that become one.
        split: cluster -> number of its parts.

    Raises:
        ValueError: see `edit_problem`; or a cluster has fewer distinct rows than parts.
    """
    rows, points = np.ascontiguousarray(X, np.float32), np.array(centers, np.float32)
    split = dict(split or {})
    problem = edit_problem(len(points), merge, split)
    if problem is not None:
        raise ValueError(problem)
    labels, _ = assign(rows, points)
    gone: set[int] = set()
    for group in merge:
        members = np.isin(labels, list(group))
        points[min(group)] = rows[members].mean(axis=0) if members.any() else points[list(group)].mean(axis=0)
        gone |= set(group) - {min(group)}
    more = []
    for cluster, n_parts in split.items():
        own = np.ascontiguousarray(rows[labels == cluster])
        try:
            parts = sweep_kmeans(own, (n_parts,), random_state=random_state).centers[0]
        except ValueError as error:
            raise ValueError(f"cluster {cluster} cannot be split into {n_parts} parts: {error}") from error
        if len(parts) < n_parts:
            raise ValueError(f"cluster {cluster} has only {len(parts)} different documents, expected {n_parts} or more")
        points[cluster] = parts[0]
        more.append(parts[1:])
    kept = [cluster for cluster in range(len(points)) if cluster not in gone]
    return np.concatenate([points[kept], *more]).astype(np.float32)
