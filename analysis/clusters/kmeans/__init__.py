"""K-means for many numbers of clusters at once."""

from analysis.clusters.kmeans._kernels import count_distinct_rows
from analysis.clusters.kmeans.lloyd import Features
from analysis.clusters.kmeans.sweep import ClusterSweep, assign, best_of_sweeps, sweep_kmeans

__all__ = ["ClusterSweep", "Features", "assign", "best_of_sweeps", "count_distinct_rows", "sweep_kmeans"]
