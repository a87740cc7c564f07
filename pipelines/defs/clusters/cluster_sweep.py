"""K-means for every K."""

import dagster as dg
import numpy as np
import polars as pl
from pydantic import Field

from pipelines.corpus.features import training_documents, training_rows
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.configuration import LARGEST_SEED
from pipelines.store.metadata import markdown_table


class SweepConfig(dg.Config):
    """The range of K, and the number of starts for each K."""

    max_clusters: int = Field(20, ge=1, le=10_000)
    n_init: int = Field(4, ge=1, le=10_000)
    balance_sources: bool = True
    """If the largest source has more than five times the documents of the smallest, no source counts more than that."""
    random_state: int = Field(0, ge=0, le=LARGEST_SEED)


def _described(artifact: Artifact) -> Description:
    sweep = artifact.read("sweep")
    rises = int((sweep["inertia"].diff().drop_nulls() > 1e-6 * sweep["inertia"][0]).sum())
    return Description(
        table="sweep",
        metadata={"curve": markdown_table(sweep, rows=len(sweep))},
        checks=[Check("sse_does_not_rise", rises == 0, f"SSE rises at {rises} of {len(sweep)} K", {"rises": rises})],
    )


@artifact_asset(
    group="clusters",
    kinds={"numpy"},
    describe=_described,
    blocking={"sse_does_not_rise": "The sum of squared errors does not rise with K."},
)
def cluster_sweep(draft: Draft, config: SweepConfig, corpus_documents: Artifact, document_features: Artifact) -> None:
    """K-means of the training documents for every K from 1 up, with the sum of squared errors (SSE) for each K."""
    from analysis.clusters.choice.selection import source_weights
    from analysis.clusters.kmeans import sweep_kmeans

    features = training_rows(corpus_documents, document_features)
    sources = training_documents(corpus_documents, pl.col("source"))
    weights = source_weights(sources) if config.balance_sources else None
    ks = range(1, config.max_clusters + 1)
    sweep = sweep_kmeans(features, ks, n_init=config.n_init, sample_weight=weights, random_state=config.random_state)
    draft.write_json("weighted", weights is not None)
    if weights is not None:
        draft.write_array("sample_weight", weights)
    draft.write_table(
        "sweep", pl.DataFrame({"n_clusters": sweep.n_clusters, "inertia": sweep.inertia, "n_iter": sweep.n_iter})
    )
    draft.write_array("labels", np.asarray(sweep.labels))
    for k, centers in zip(sweep.n_clusters, sweep.centers, strict=True):
        draft.write_array(f"centers/{k}", centers)
