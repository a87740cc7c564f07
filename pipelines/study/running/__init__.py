"""The training runs of a study: their documents, one run as an artifact, many side by side, and what each costs.

Imports `training` and `store`, and nothing else of `study`.
"""
