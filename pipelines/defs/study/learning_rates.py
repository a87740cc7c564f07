"""The documents that methods are compared on, and the learning rate of each method, tuned on a validation part."""

from typing import Any

import dagster as dg
import polars as pl

from pipelines.store.artifacts import Artifact, Draft, source_version
from pipelines.store.assets import Check, artifact_asset, markdown_table, materialized
from pipelines.store.io_manager import ArtifactStore
from pipelines.study.run_documents import VALIDATION, Split, parts_overlap, write_run_documents
from pipelines.study.runs import CODE, Run, Setup, build_runs, mean_loss
from pipelines.study.sizes import matched_parameters
from pipelines.training.adapters import documents_table, expert_count
from pipelines.training.launcher import Launcher
from pipelines.training.recipe import BaseModel, Recipe

DOCUMENTS_VERSION = source_version(
    "hydralora.data", "pipelines.training.adapters", "pipelines.defs.evaluation", "pipelines.study.run_documents"
)
VERSION = source_version(
    *CODE, "analysis.methods.comparison", "pipelines.defs.study.learning_rates", "pipelines.study.sizes"
)


class ComparisonDocumentsConfig(dg.Config):
    """How many documents of each source are not trained on."""

    validation_documents_per_source: int = 50
    """Of the training documents, to choose learning rates with."""
    held_out_documents_per_source: int | None = 200
    """Of the test documents, to report on; null for all."""


class LearningRatesConfig(dg.Config):
    """Which rates are tried for which method; the others keep the recipe's."""

    rates: dict[str, list[float]] = {}
    max_tokens: int | None = None
    """Budget of each run, by default the recipe's: a shorter one wants higher rates, and chooses them too high."""
    seed: int = 0


@artifact_asset(
    group="comparison",
    version=DOCUMENTS_VERSION,
    kinds={"polars"},
    blocking=("parts_do_not_overlap",),
)
def comparison_documents(
    config: ComparisonDocumentsConfig,
    store: dg.ResourceParam[ArtifactStore],
    recipe: Recipe,
    base_model: BaseModel,
    corpus_documents: Artifact,
    cluster_labels: Artifact,
    prompt_gates: Artifact,
) -> dg.MaterializeResult:
    """Tokens of the documents that all methods train on, of those that rates are tuned on, and of those held out.

    All methods get the same N, that of the groups which `prompt_gates` found.
    """
    n = expert_count(prompt_gates)
    split = Split(config.validation_documents_per_source, config.held_out_documents_per_source)

    def build(draft: Draft) -> None:
        documents = documents_table(corpus_documents, cluster_labels, prompt_gates)
        write_run_documents(draft, documents, split, recipe, base_model)
        draft.write_json("num_experts", n)

    artifact = store.build(
        "comparison_documents",
        build,
        code_version=DOCUMENTS_VERSION,
        config={**config.model_dump(), **recipe.text_identity(), **base_model.identity()},
        inputs={"corpus_documents": corpus_documents, "cluster_labels": cluster_labels, "prompt_gates": prompt_gates},
    )
    overlap = parts_overlap(artifact)
    return materialized(
        artifact,
        metadata={"parts": markdown_table(artifact.read("parts"))},
        checks=[Check("parts_do_not_overlap", overlap == 0, f"{overlap} documents are in two parts")],
    )


@artifact_asset(
    group="comparison",
    version=VERSION,
    kinds={"torch"},
    blocking=("every_rate_measured",),
    warnings=("best_rates_bracketed",),
    pool="gpu",
)
def learning_rates(
    context: dg.AssetExecutionContext,
    config: LearningRatesConfig,
    store: dg.ResourceParam[ArtifactStore],
    recipe: Recipe,
    base_model: BaseModel,
    launcher: Launcher,
    comparison_documents: Artifact,
) -> dg.MaterializeResult:
    """The rate of least validation loss for every method that has rates to try; the test documents have no say."""
    n = comparison_documents.json("num_experts")
    setup = Setup.of(store.directory, comparison_documents, recipe, base_model)

    def build(draft: Draft) -> None:
        runs = []
        for method, rates in config.rates.items():
            size = matched_parameters(method, base_model, recipe.settings(n))
            runs += [Run(method, config.seed, rate, n, VALIDATION, config.max_tokens, size) for rate in rates]
        artifacts = build_runs([(setup, run) for run in runs], launcher, context.log.info)
        losses = [mean_loss(artifact) for artifact in artifacts]
        rows = [(run.method, run.learning_rate, loss) for run, loss in zip(runs, losses, strict=True)]
        table = pl.DataFrame(rows, schema=SWEEP_SCHEMA, orient="row")
        draft.write_table("sweep", table)
        provenance = {
            "measured_on": VALIDATION,
            "max_tokens": config.max_tokens,
            "seed": config.seed,
            "num_experts": n,
            "documents": comparison_documents.fingerprint,
        }
        draft.write_json("learning_rates", {"methods": chosen_rates(table), **provenance})

    artifact = store.build(
        "learning_rates",
        build,
        code_version=VERSION,
        config={**config.model_dump(), **recipe.identity(), **base_model.identity()},
        inputs={"comparison_documents": comparison_documents},
    )
    table, chosen = artifact.read("sweep"), artifact.json("learning_rates")["methods"]
    tried = sum(len(rates) for rates in config.rates.values())
    at_edge = [method for method, choice in chosen.items() if not choice["bracketed"]]
    return materialized(
        artifact,
        table="sweep",
        metadata={"validation_loss": markdown_table(table, rows=200), "chosen": chosen},
        checks=[
            Check("every_rate_measured", len(table) == tried, f"{len(table)} of {tried} runs"),
            Check(
                "best_rates_bracketed",
                not at_edge,
                f"best at the edge of what was tried: {', '.join(at_edge)}" if at_edge else "inside of what was tried",
                warning=True,
            ),
        ],
    )


SWEEP_SCHEMA = {"method": pl.String, "learning_rate": pl.Float64, "loss": pl.Float64}


def chosen_rates(sweep: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """For each method its best rate, what was tried, and whether the best lies between others."""
    chosen = {}
    for (method,), tried in sweep.sort("learning_rate").group_by("method", maintain_order=True):
        best = tried["loss"].arg_min()
        assert best is not None
        chosen[str(method)] = {
            "learning_rate": tried["learning_rate"][best],
            "bracketed": 0 < best < len(tried) - 1,
            "learning_rates": tried["learning_rate"].to_list(),
            "losses": tried["loss"].to_list(),
        }
    return chosen


def rate_of(method: str, learning_rates: Artifact, recipe: Recipe) -> float:
    """The tuned rate of a method where there is one, else the recipe's."""
    tuned = learning_rates.json("learning_rates")["methods"].get(method)
    return float(tuned["learning_rate"]) if tuned else recipe.learning_rates.get(method, recipe.learning_rate)
