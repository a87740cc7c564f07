"""The jobs: everything, the corpus alone, training on what the corpus job left, and documents that arrive later."""

import dagster as dg

CORPUS_GROUPS = ("corpus", "clusters")
NEW_DATA = dg.AssetSelection.groups("new_data")

hydralora_job = dg.define_asset_job(
    "hydralora",
    selection=dg.AssetSelection.all() - NEW_DATA,
    description="From sources to a report: N from the corpus, HydraLoRA and its baselines, evaluation, breakdown.",
)
corpus_job = dg.define_asset_job(
    "corpus",
    selection=dg.AssetSelection.groups(*CORPUS_GROUPS),
    description="From sources to N: read, clean, cluster, choose. Imports no torch.",
)
train_job = dg.define_asset_job(
    "train",
    selection=dg.AssetSelection.all() - dg.AssetSelection.groups(*CORPUS_GROUPS) - NEW_DATA,
    description="Everything after the corpus job, on the latest corpus and clusters in the store.",
)
assign_job = dg.define_asset_job(
    "assign",
    selection=NEW_DATA,
    description="New documents: their clusters in the latest corpus model of the store, and whether N still stands.",
)
JOBS = (hydralora_job, corpus_job, train_job, assign_job)
