"""The jobs: everything, the corpus alone, and training on what the corpus job left."""

import dagster as dg

CORPUS_GROUPS = ("corpus", "clusters")

corpus_job = dg.define_asset_job(
    "corpus",
    selection=dg.AssetSelection.groups(*CORPUS_GROUPS),
    description="From sources to N: read, clean, cluster, choose. Imports no torch.",
)
