"""The coordinates of the map of documents."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

EXCERPT = 280
MAP_POINTS = 15_000


def document_map(documents: pl.LazyFrame, features: NDArray[np.float32]) -> pl.DataFrame:
    """Map of documents: the two leading principal components of the features, for at most 15,000 documents.

    Only the texts of these documents are read, so a million documents need not fit into memory.

    Args:
        documents: document_id, cluster, source, prompt, completion.
        features: [n_documents, n_components].

    Returns:
        document_id, cluster, source, excerpt, x, y.
    """
    rows = np.arange(len(features))
    if len(rows) > MAP_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MAP_POINTS, replace=False))
    table = (
        documents.with_row_index("row")
        .filter(pl.col("row").is_in(rows.tolist()))
        .select(
            "document_id",
            "cluster",
            "source",
            excerpt=pl.concat_str("prompt", "completion", separator="\n").str.slice(0, EXCERPT),
        )
        .collect(engine="streaming")
    )
    centred = features[rows]
    centred = centred - centred.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    points = centred @ directions[:2].T
    return table.with_columns(x=pl.Series(points[:, 0]), y=pl.Series(points[:, -1]))
