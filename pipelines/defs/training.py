"""Training: HydraLoRA with the N of the corpus, the methods it is compared with, and one LoRA for each cluster."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from pipelines.defs.gates import GROUP_MODEL
from pipelines.store.artifacts import Artifact, Draft, source_version
from pipelines.store.assets import Check, artifact_asset, markdown_table, materialized
from pipelines.store.io_manager import ArtifactStore
from pipelines.training.adapters import (
    GIVEN_GATES,
    SEQUENCE_GATES,
    UNTRAINED,
    Training,
    documents_table,
    expert_count,
    experts_of,
    save_untrained,
    tokenised,
)
from pipelines.training.launcher import Job, Launcher
from pipelines.training.recipe import BaseModel, Recipe

VERSION = source_version("hydralora", "pipelines.training", "pipelines.defs.training")


training_asset = artifact_asset(
    group="training",
    version=VERSION,
    kinds={"torch"},
    blocking=("loss_finite", "base_weights_unchanged", "reload_equal"),
    warnings=("loss_falls",),
    pool="gpu",
)


class HydraloraConfig(dg.Config):
    """Which HydraLoRA: a row of `hydralora.methods`."""

    method: str = SEQUENCE_GATES
    """`hydralora_sequence`: gates are given by the prompt (`prompt_gates`); `hydralora`: the paper's, with routers."""


class BaselinesConfig(dg.Config):
    """Rows of `hydralora.methods`; `lora_matched` is as large as the HydraLoRA, router included."""

    methods: list[str] = ["lora_matched"]


class ComponentsConfig(dg.Config):
    """Plain LoRAs of parts of the corpus, for the breakdown of what A and B learn."""

    max_tokens: int = 200_000
    """Budget of each; small is enough to tell A from B."""
    parts: int = 3
    """The largest clusters, and as many random parts of the largest cluster as a control."""
    other_seeds: list[int] = [1]
    """Every cluster is trained again with these: separates what was learnt from what A started as."""


@training_asset
def hydralora_adapter(
    context: dg.AssetExecutionContext,
    config: HydraloraConfig,
    store: dg.ResourceParam[ArtifactStore],
    recipe: Recipe,
    base_model: BaseModel,
    launcher: Launcher,
    corpus_documents: Artifact,
    num_experts: Artifact,
    cluster_labels: Artifact,
    prompt_gates: Artifact,
) -> dg.MaterializeResult:
    """HydraLoRA with one shared A and N experts. With N = 1 it is one plain LoRA.

    Where gates are given by the prompt, the model that finds its group lies beside the adapter.
    """
    n = experts_of(config.method, num_experts, prompt_gates)
    method = config.method if n > 1 else "without_moe"

    def build(draft: Draft) -> None:
        if method in GIVEN_GATES:
            shutil.copytree(prompt_gates.path(GROUP_MODEL), draft.folder / GROUP_MODEL, dirs_exist_ok=True)
        documents = documents_table(corpus_documents, cluster_labels, prompt_gates).filter(pl.col("split") == "train")
        tokens = tokenised(draft, "training", documents, base_model.load()[1], recipe)
        job = Job(draft.folder, Training(method, n, recipe.seed), tokens)
        launcher.train(context, [job], recipe, base_model)
        (draft.folder / "training.parquet").unlink()

    artifact = store.build(
        "hydralora_adapter",
        build,
        code_version=VERSION,
        config={"method": method, **recipe.identity(), **base_model.identity()},
        inputs={
            "corpus_documents": corpus_documents,
            "num_experts": num_experts,
            "cluster_labels": cluster_labels,
            "prompt_gates": prompt_gates,
        },
    )
    record = artifact.json("run")
    return materialized(
        artifact,
        metadata={"num_experts": n, "method": method, **_shown(record)},
        checks=_curve_checks({method: artifact.folder}),
    )


@training_asset
def baseline_adapters(
    context: dg.AssetExecutionContext,
    config: BaselinesConfig,
    store: dg.ResourceParam[ArtifactStore],
    recipe: Recipe,
    base_model: BaseModel,
    launcher: Launcher,
    corpus_documents: Artifact,
    num_experts: Artifact,
    cluster_labels: Artifact,
    prompt_gates: Artifact,
    hydralora_adapter: Artifact,
) -> dg.MaterializeResult:
    """The methods HydraLoRA is compared with: same documents, same batches, same seed."""
    size = hydralora_adapter.json("run")["parameters"]["trainable"]

    def build(draft: Draft) -> None:
        documents = documents_table(corpus_documents, cluster_labels, prompt_gates).filter(pl.col("split") == "train")
        tokens = tokenised(draft, "training", documents, base_model.load()[1], recipe)
        jobs = []
        for method in config.methods:
            n = experts_of(method, num_experts, prompt_gates)
            jobs.append(Job(draft.folder / method, Training(method, n, recipe.seed, match_parameters=size), tokens))
        launcher.train(context, jobs, recipe, base_model)
        (draft.folder / "training.parquet").unlink()

    artifact = store.build(
        "baseline_adapters",
        build,
        code_version=VERSION,
        config={**config.model_dump(), **recipe.identity(), **base_model.identity()},
        inputs={
            "corpus_documents": corpus_documents,
            "cluster_labels": cluster_labels,
            "prompt_gates": prompt_gates,
            "hydralora_adapter": hydralora_adapter,
        },
    )
    folders = {method: artifact.folder / method for method in config.methods}
    return materialized(artifact, metadata=_table(folders), checks=_curve_checks(folders))


@training_asset
def component_adapters(
    context: dg.AssetExecutionContext,
    config: ComponentsConfig,
    store: dg.ResourceParam[ArtifactStore],
    recipe: Recipe,
    base_model: BaseModel,
    launcher: Launcher,
    corpus_documents: Artifact,
    num_experts: Artifact,
    cluster_labels: Artifact,
) -> dg.MaterializeResult:
    """A plain LoRA for each of the largest clusters, and for random parts of the largest one, each with several seeds.

    Clusters are the paper's intrinsic components; random (IID) parts and other seeds are the controls that tell what
    training did from where it started.
    """
    n = expert_count(num_experts)

    def build(draft: Draft) -> None:
        documents = documents_table(corpus_documents, cluster_labels).filter(pl.col("split") == "train")
        tokenizer = base_model.load()[1]
        jobs = []
        for part, rows in component_parts(documents.collect(), config.parts).items():
            tokens = tokenised(draft, part, rows.lazy(), tokenizer, recipe)
            (draft.folder / f"{part}.parquet").unlink()
            for seed in (recipe.seed, *(config.other_seeds if part.startswith("cluster") else ())):
                training = Training("lora_r8", n, seed, config.max_tokens, measure_energy=False)
                jobs.append(Job(draft.folder / f"{part}-seed-{seed}", training, tokens))
        launcher.train(context, jobs, recipe, base_model)
        for seed in (recipe.seed, *config.other_seeds):
            start = Training("lora_r8", n, seed)
            save_untrained(draft.folder / f"{UNTRAINED}-seed-{seed}", start, recipe, base_model)

    artifact = store.build(
        "component_adapters",
        build,
        code_version=VERSION,
        config={**config.model_dump(), **recipe.identity(), **base_model.identity()},
        inputs={"corpus_documents": corpus_documents, "num_experts": num_experts, "cluster_labels": cluster_labels},
    )
    folders = {folder.parent.name: folder.parent for folder in sorted(artifact.folder.glob("*/run.json"))}
    return materialized(artifact, metadata=_table(folders), checks=_curve_checks(folders))


def component_parts(documents: pl.DataFrame, parts: int) -> dict[str, pl.DataFrame]:
    """The largest clusters as `cluster-<k>`, and as many random parts of the largest as `iid-<i>`."""
    sizes = documents["cluster"].value_counts(sort=True).sort(["count", "cluster"], descending=[True, False])
    largest = sizes["cluster"].to_list()[:parts]
    named = {f"cluster-{k}": documents.filter(pl.col("cluster") == k) for k in sorted(largest)}
    # The id is a hash of the text, so its order is a random order that does not depend on where the document came from.
    whole = documents.filter(pl.col("cluster") == largest[0]).sort("document_id")
    return named | {f"iid-{i}": whole.gather_every(parts, i) for i in range(parts)}


def read_curve(folder: Path) -> pl.DataFrame:
    """The training curve that `hydralora.training` left in a folder."""
    return pl.read_ndjson(folder / "curve.jsonl")


def _curve_checks(folders: dict[str, Path]) -> list[Check]:
    losses = {name: read_curve(folder)["loss"].drop_nulls().to_list() for name, folder in folders.items()}
    rising = [name for name, values in losses.items() if _mean(values[-3:]) >= _mean(values[:3])]
    infinite = [name for name, values in losses.items() if not all(math.isfinite(value) for value in values)]
    # `train` refuses to write a record when the hash of the base weights differs before and after; adapters that are
    # compared must also have started from the same weights.
    records = {name: json.loads((folder / "run.json").read_text()) for name, folder in folders.items()}
    bases = {record["base_model"]["weights"] for record in records.values()}
    reloaded = {name: record["reload_difference"] for name, record in records.items()}
    # None: a whole model, which is not read back. On GPUs, kernels may add in another order.
    different = [name for name, difference in reloaded.items() if difference is not None and difference > 1e-3]
    return [
        Check("loss_finite", not infinite, ", ".join(infinite) or "every step's loss is a number"),
        Check("base_weights_unchanged", len(bases) == 1, f"hashes of the base weights: {', '.join(sorted(bases))}"),
        Check("reload_equal", not different, ", ".join(different) or "the files give the same logits"),
        Check("loss_falls", not rising, f"loss does not fall: {rising}" if rising else "loss falls", warning=True),
    ]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "trainable_parameters": record["parameters"]["trainable"],
        "steps": record["steps"],
        "tokens": record["tokens"],
        "seconds": record["seconds"],
    }


def _table(folders: dict[str, Path]) -> dict[str, Any]:
    rows = [
        {"adapter": name, **_shown(json.loads((folder / "run.json").read_text()))} for name, folder in folders.items()
    ]
    return {"adapters": markdown_table(pl.DataFrame(rows), rows=100)}
