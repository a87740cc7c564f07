"""N from the corpus: the sweep over K, the choice of N, the content of clusters, and documents that arrive later.

Imports `features` and `corpus`.
"""
