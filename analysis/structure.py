"""Does a corpus have parts at all? Two measurements that single-task corpora and shuffled words do not pass."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import minimum_spanning_tree

from analysis.clustering import ClusterSweep, Features, sweep_kmeans

# Both limits were set on development corpora (docs/results/selection.md).
EXCESS_CLUSTERS, MIN_EXCESS = 4, 0.11
OVERLAP_CLUSTERS, MAX_OVERLAP = 8, 0.2
SAMPLE_SIZE = 4096


@dataclass(frozen=True)
class StructureEvidence:
    """Why a corpus counts as one piece or as several.

    Attributes:
        explained: share of the squared distances that four clusters explain.
        explained_by_chance: the same for a Gaussian cloud with the same covariance.
        overlap: density in the emptiest gap that has to be crossed to connect all of eight clusters, relative to
            the clusters beside it; 0 is a clean gap, 1 is no gap.
    """

    explained: float
    explained_by_chance: float
    overlap: float

    @property
    def structure(self) -> bool:
        return self.beyond_chance >= MIN_EXCESS and self.overlap <= MAX_OVERLAP

    @property
    def beyond_chance(self) -> float:
        """What is explained, with chance at 0 and everything at 1."""
        return (self.explained - self.explained_by_chance) / max(1 - self.explained_by_chance, 1e-12)


def measure_structure(X: Features, sweep: ClusterSweep, random_state: int = 0) -> StructureEvidence:
    """Compare a sweep with chance, and look for gaps between its clusters.

    Args:
        X: [n, d], the rows the sweep was fitted to.
    """
    random = np.random.default_rng(random_state)
    few = _fitted_up_to(sweep, EXCESS_CLUSTERS)
    many = _fitted_up_to(sweep, OVERLAP_CLUSTERS)
    rows = _sample(len(X), random)
    overlaps = cluster_overlaps(X[rows], sweep.centers[many], sweep.labels[many][rows])
    return StructureEvidence(
        explained=_explained(sweep, few),
        explained_by_chance=_explained_by_chance(X, sweep, sweep.n_clusters[few], random),
        overlap=weakest_link(overlaps),
    )


def cluster_overlaps(X: Features, centers: Features, labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """[K, K]: along the line through two centres, the lowest density between them over the lower peak beside it.

    Only rows of the two clusters count. The density is a Gaussian kernel estimate of width 0.12 of the distance.
    """
    n_clusters = len(centers)
    overlaps = np.eye(n_clusters)
    grid = np.linspace(-0.3, 1.3, 33)
    for a in range(n_clusters):
        for b in range(a + 1, n_clusters):
            axis = centers[b] - centers[a]
            rows = X[(labels == a) | (labels == b)]
            position = (rows - centers[a]) @ axis / max(float(axis @ axis), 1e-12)
            density = np.exp(-0.5 * ((grid[:, None] - position) / 0.12) ** 2).sum(axis=1)
            gap = density[(grid > 0.3) & (grid < 0.7)].min()
            peaks = min(density[grid <= 0.5].max(), density[grid >= 0.5].max())
            overlaps[a, b] = overlaps[b, a] = gap / max(peaks, 1e-12)
    return overlaps


def weakest_link(overlaps: NDArray[np.float64]) -> float:
    """The smallest overlap that connecting all clusters needs (in the maximum spanning tree); 1 for one cluster."""
    if len(overlaps) < 2:
        return 1.0
    distances = 2.0 - np.clip(overlaps, 0, 1)  # positive, as an absent edge is 0
    return 2.0 - float(minimum_spanning_tree(distances).data.max())


def _fitted_up_to(sweep: ClusterSweep, n_clusters: int) -> int:
    return max(i for i, k in enumerate(sweep.n_clusters) if k <= n_clusters or i == 0)


def _sample(n_rows: int, random: np.random.Generator) -> NDArray[np.int64]:
    if n_rows <= SAMPLE_SIZE:
        return np.arange(n_rows)
    return np.sort(random.choice(n_rows, SAMPLE_SIZE, replace=False))


def _explained(sweep: ClusterSweep, index: int) -> float:
    return float(1 - sweep.inertia[index] / sweep.inertia[0]) if sweep.inertia[0] > 0 else 0.0


def _explained_by_chance(X: Features, sweep: ClusterSweep, n_clusters: int, random: np.random.Generator) -> float:
    """Share of a Gaussian cloud, with the covariance of X, that its own K-means explains."""
    weights = sweep.sample_weight
    centered = X - np.average(X, axis=0, weights=weights)
    covariance = np.cov(centered, rowvar=False, aweights=weights, ddof=0)  # defined for one row, too
    values, vectors = np.linalg.eigh(np.atleast_2d(covariance))
    noise = random.standard_normal((min(len(X), SAMPLE_SIZE), len(values)))
    cloud = (noise * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return _explained(sweep_kmeans(cloud, (1, n_clusters), n_init=2), -1)
