"""The documents and the plan of `paper_study.py`, from the store of the job `study`; makes its corpus if need be.

python benchmarks/studies/paper_data.py STORE STATE
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from experts_mix import Mix

from pipelines.store.artifacts import Artifact
from pipelines.store.io_manager import ArtifactStore
from pipelines.study.experiments import EXPERIMENTS, NUM_CLUSTERS, planned_cells
from pipelines.study.running.run_documents import HELD_OUT, TRAINING, VALIDATION, SplitConfig, read_run_documents
from pipelines.study.sizes import matched_parameters
from pipelines.study.study_documents import Corpus, study_documents
from pipelines.training.recipe import BaseModel, Recipe

CONFIG = Path(__file__).resolve().parents[2] / "pipelines" / "configs" / "study.yaml"
OF_CORPUS = ("corpus_documents", "document_features", "tokenised_documents")


def configuration() -> dict[str, Any]:
    """Of the job `study`."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    return config


def corpus_of(directory: Path) -> Corpus:
    """The corpus in a store, made by the assets of the job `study` if it has none."""
    import dagster as dg

    from pipelines.definitions import build_defs

    config = configuration()
    definitions = build_defs()
    keys = dg.AssetSelection.assets(*OF_CORPUS[1:]).upstream().resolve(definitions.resolve_asset_graph())
    resources = config["resources"] | {"store": {"config": {"directory": str(directory)}}}
    ops = {name: op for name, op in config["ops"].items() if name in {key.path[-1] for key in keys}}
    job = definitions.resolve_job_def("study").get_subset(asset_selection=keys)
    job.execute_in_process(run_config={"resources": resources, "ops": ops})
    store = ArtifactStore(directory=str(directory))
    return Corpus(*(store.last(name) for name in OF_CORPUS))


def domain_documents(directory: Path, corpus: Corpus) -> dict[str, Artifact]:
    """The documents of each domain, as the job `study` makes them."""
    own = configuration()["ops"]["study_runs"]["config"]
    split = SplitConfig(**{name: own[name] for name in SplitConfig.model_fields})
    store = ArtifactStore(directory=str(directory))
    return {
        domain: study_documents(store, corpus, sources, NUM_CLUSTERS[domain], split)
        for domain, sources in own["domains"].items()
    }


def mix_of(domain: str, documents: Artifact, corpus: Corpus) -> Mix:
    """The three parts of a domain as arrays."""
    parts = {part: read_run_documents(documents, part) for part in (TRAINING, VALIDATION, HELD_OUT)}
    ids = pl.DataFrame({"document_id": [i for part in parts.values() for i in part.column("document_id")]})
    labels = ids.join(
        corpus.documents.read("documents").select("document_id", "source", "task"),
        on="document_id",
        how="left",
        maintain_order="left",
    )
    tasks = labels.select(name=pl.concat_str("source", pl.col("task").fill_null(""), separator="/"))["name"]
    rows = [np.asarray(row, np.uint16) for part in parts.values() for row in part.column("input_ids")]
    task_names, task_numbers = np.unique(tasks.to_numpy().astype(str), return_inverse=True)
    source_names, source_numbers = np.unique(labels["source"].to_numpy().astype(str), return_inverse=True)
    return Mix(
        name=domain,
        tokens=np.concatenate(rows),
        lengths=np.array([len(row) for row in rows]),
        answer_starts=np.concatenate([np.asarray(part.column("answer_start"), int) for part in parts.values()]),
        sources=source_numbers,
        tasks=task_numbers,
        parts=np.repeat(list(parts), [len(part) for part in parts.values()]),
        source_names=tuple(source_names.tolist()),
        task_names=tuple(task_names.tolist()),
        labels={"cluster": np.concatenate([np.asarray(part.column("cluster"), int) for part in parts.values()])},
        source_tags=(),
        group_tags=(),
        tag_place=0,
    )


def plan() -> dict[str, Any]:
    """The cells of all tables and figures, the rates to begin with, and the settings of all runs."""
    config = configuration()
    recipe, base = (Recipe(**config["resources"]["recipe"]["config"]), BaseModel())
    own = config["ops"]["study_runs"]["config"]
    cells = planned_cells(EXPERIMENTS, own["domains"])
    training, settings = recipe.training_config("lora_r8"), recipe.method_config(3)
    return {
        "cells": [
            {
                "method": cell.method,
                "mix": cell.domain,
                "num_experts": cell.num_experts,
                "match_parameters": matched_parameters(cell.method, base, recipe.method_config(cell.num_experts)),
            }
            for cell in cells
        ],
        "rates": own["rates"],
        "training": {
            "max_steps": training.max_steps,
            "tokens_per_step": training.tokens_per_step,
            "gradient_accumulation_steps": training.gradient_accumulation_steps,
        },
        "method": {"target_modules": settings.target_modules, "r": settings.r, "lora_alpha": settings.lora_alpha},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("state", type=Path)
    arguments = parser.parse_args()
    directory, state = arguments.store, arguments.state
    corpus = corpus_of(directory)
    (state / "mixes").mkdir(parents=True, exist_ok=True)
    for domain, documents in domain_documents(directory, corpus).items():
        mix = mix_of(domain, documents, corpus)
        mix.save(state / "mixes" / f"{domain}.npz")
        print(domain, {part: len(mix.indices(part)) for part in (TRAINING, VALIDATION, HELD_OUT)}, flush=True)
    (state / "plan.json").write_text(json.dumps(plan(), indent=1) + "\n")


if __name__ == "__main__":
    main()
