"""One number for the heterogeneity of a corpus: the x axis of the paper's Figure 2."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.clusters.kmeans import sweep_kmeans

HETEROGENEITY_CLUSTERS = 20


@dataclass(frozen=True)
class Heterogeneity:
    """How different in kind two random documents of a corpus are.

    Attributes:
        index: half the mean squared distance between the cluster centres of two random documents, from 0 (all of one
            kind) to almost 1 (many kinds that share nothing). This is Rao's quadratic entropy over 20 clusters.
        effective_parts: 1 / (1 - index), the number of equally large parts without common words that has the same
            index.
        within: half the mean squared distance between two random documents of the same cluster: variety within a kind.
    """

    index: float
    effective_parts: float
    within: float


def measure_heterogeneity(X: ArrayLike, *, random_state: int = 0) -> Heterogeneity:
    """Measure the heterogeneity of a corpus from its features.

    Randomly mixed words do not count as variety: such documents differ, but clusters do not explain the differences.

    Args:
        X: [n, d], features with rows of L2 norm one.

    Source: Rao (1982), Diversity and dissimilarity coefficients.
    """
    sweep = sweep_kmeans(X, (1, HETEROGENEITY_CLUSTERS), random_state=random_state)
    number = len(np.asarray(X))
    within = float(sweep.inertia[-1]) / number if len(sweep.inertia) > 1 else 0.0
    index = max(float(sweep.inertia[0]) / number - within, 0.0)
    return Heterogeneity(index=index, effective_parts=1 / max(1 - index, 1e-12), within=within)
