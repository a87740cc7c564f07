"""N from the corpus: the sweep over K, the choice, what clusters hold, documents that arrive later.

Imports `features` and `corpus`.
"""
