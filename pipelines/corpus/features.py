"""Features and texts of the training documents only: held-out documents never influence the clusters."""

import numpy as np
import polars as pl

from pipelines.store.artifacts import Artifact


def training_documents(corpus_documents: Artifact, column: pl.Expr) -> pl.Series:
    """A column of the training documents."""
    return corpus_documents.scan("documents").filter(pl.col("split") == "train").select(column).collect().to_series()


def training_rows(corpus_documents: Artifact, document_features: Artifact) -> np.ndarray:
    """Features [n_train, n_components] of the training documents."""
    is_train = corpus_documents.scan("documents").select(pl.col("split") == "train").collect().to_series().to_numpy()
    return np.ascontiguousarray(document_features.array("features")[is_train])
