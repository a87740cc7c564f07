"""The jobs: the main job and its parts, new documents, the comparison of methods, and the paper's tables.

None has a default configuration: Dagster would fill what a user's configuration leaves out with values of the default,
down to single fields, without a message.
"""

from typing import Any

import dagster as dg

from pipelines.store.assets import ASSETS

CORPUS_GROUPS = ("corpus", "clusters")
CORPUS_REPORT = dg.AssetSelection.groups("corpus_report")
NEW_DATA = dg.AssetSelection.groups("new_data")
SHARDS = dg.AssetSelection.groups("shards")
COMPARISON = dg.AssetSelection.groups("comparison")
STUDY = dg.AssetSelection.groups("study")
ONE_RUN = dg.AssetSelection.groups("study_partitions")
TOKENS = dg.AssetSelection.assets("tokenised_documents")
APART = CORPUS_REPORT | NEW_DATA | SHARDS | COMPARISON | STUDY | ONE_RUN

hydralora_job = dg.define_asset_job(
    "hydralora",
    selection=dg.AssetSelection.all() - APART,
    description="From sources to a report: N from the corpus, HydraLoRA and its baselines, evaluation, breakdown.",
)
corpus_job = dg.define_asset_job(
    "corpus",
    selection=dg.AssetSelection.groups(*CORPUS_GROUPS) | CORPUS_REPORT,
    description="From sources to N and a report of the corpus: read, clean, cluster, choose. Imports no torch.",
)
train_job = dg.define_asset_job(
    "train",
    selection=dg.AssetSelection.all() - dg.AssetSelection.groups(*CORPUS_GROUPS) - APART,
    description="Everything after the corpus job, on what the run in resources.store.config.from_run made.",
)
assign_job = dg.define_asset_job(
    "assign",
    selection=NEW_DATA,
    description="New documents: clusters in the corpus of resources.store.config.from_run, and whether N still holds.",
)
sharded_job = dg.define_asset_job(
    "sharded",
    selection=SHARDS,
    description="The corpus stage in shards, for corpora larger than one machine: on processes or a Ray cluster.",
)
compare_job = dg.define_asset_job(
    "compare",
    selection=dg.AssetSelection.groups(*CORPUS_GROUPS) | TOKENS | COMPARISON,
    description="Compares any methods on the same documents, budget and batches in one table.",
)
study_job = dg.define_asset_job(
    "study",
    selection=dg.AssetSelection.groups(*CORPUS_GROUPS) | TOKENS | STUDY,
    description="The paper's tables and figures on your own base model and corpora.",
)
study_run_job = dg.define_asset_job(
    "one_run",
    selection=ONE_RUN,
    description="One run of the study: a partition for each method, seed and learning rate. A backfill needs a "
    "configuration, in its dialog or in a configured job.",
)
JOBS = (hydralora_job, corpus_job, train_job, assign_job, sharded_job, compare_job, study_job, study_run_job)


def for_job(values: dict[str, Any], job: str) -> dict[str, Any]:
    """The part of a configuration of the main job that another job has. Names that no job knows stay, to be refused."""
    ops = values.get("ops")
    if job == hydralora_job.name or not isinstance(ops, dict):
        return values
    known, here = (assets_of(name) for name in (hydralora_job.name, job))
    return {**values, "ops": {name: value for name, value in ops.items() if name in here or name not in known}}


def assets_of(job: str) -> set[str]:
    """Names of a job's assets. `pipelines.definitions` imports them all."""
    selection: Any = next(one.selection for one in JOBS if one.name == job)
    return {key.path[-1] for key in selection.resolve(list(ASSETS.values()))}
