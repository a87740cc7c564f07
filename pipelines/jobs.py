"""The jobs: everything, the corpus alone, and training on what the corpus job left."""

import dagster as dg

CORPUS_GROUPS = ("corpus", "clusters")

hydralora_job = dg.define_asset_job(
    "hydralora",
    selection=dg.AssetSelection.all(),
    description="From sources to a report: N from the corpus, HydraLoRA and its baselines, evaluation, breakdown.",
)
corpus_job = dg.define_asset_job(
    "corpus",
    selection=dg.AssetSelection.groups(*CORPUS_GROUPS),
    description="From sources to N: read, clean, cluster, choose. Imports no torch.",
)
train_job = dg.define_asset_job(
    "train",
    selection=dg.AssetSelection.all() - dg.AssetSelection.groups(*CORPUS_GROUPS),
    description="Everything after the corpus job, on the latest corpus and clusters in the store.",
)
JOBS = (hydralora_job, corpus_job, train_job)
