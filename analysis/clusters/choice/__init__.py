"""How many clusters: the elbow of the sweep, whether there is structure at all, how stable N is, resampled corpora.

Imports `clusters.kmeans`.
"""
