"""The learning rate of each method, tuned on a validation part."""

import dagster as dg
import polars as pl
from pydantic import Field

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.configuration import LARGEST_SEED
from pipelines.store.io_manager import ArtifactStore
from pipelines.store.metadata import markdown_table
from pipelines.study.learning_rates import SWEEP_SCHEMA, chosen_rates
from pipelines.study.running.run import Setup, mean_loss
from pipelines.study.running.run_documents import VALIDATION
from pipelines.study.running.runs import build_runs
from pipelines.study.sizes import planned_run
from pipelines.training.launcher import Launcher
from pipelines.training.recipe import BaseModel, Recipe


class LearningRatesConfig(dg.Config):
    """Which rates are tried for which method; the others keep the recipe's."""

    rates: dict[str, list[float]] = {}
    max_tokens: int | None = Field(None, ge=1)
    """Budget of each run, by default the recipe's. With a smaller budget, rates come out too high for the full one."""
    seed: int = Field(0, ge=0, le=LARGEST_SEED)


def _described(artifact: Artifact, config: LearningRatesConfig) -> Description:
    table, chosen = artifact.read("sweep"), artifact.json("learning_rates")["methods"]
    tried = sum(len(rates) for rates in config.rates.values())
    at_edge = [method for method, choice in chosen.items() if not choice["bracketed"]]
    edge = f"best at the edge of what was tried: {', '.join(at_edge)}" if at_edge else "inside of what was tried"
    return Description(
        table="sweep",
        metadata={"validation_loss": markdown_table(table, rows=200), "chosen": chosen},
        checks=[
            Check("every_rate_measured", len(table) == tried, f"{len(table)} of {tried} runs", {"runs": len(table)}),
            Check("best_rates_bracketed", not at_edge, edge, {"methods_at_an_edge": len(at_edge)}),
        ],
    )


@artifact_asset(
    group="comparison",
    kinds={"pytorch"},
    describe=_described,
    blocking={"every_rate_measured": "Every rate of every method was measured."},
    warnings={"best_rates_bracketed": "The best rate of each method lies between others that were tried."},
    pool="gpu",
)
def learning_rates(
    draft: Draft,
    context: dg.AssetExecutionContext,
    config: LearningRatesConfig,
    store: ArtifactStore,
    recipe: Recipe,
    base_model: BaseModel,
    launcher: Launcher,
    comparison_documents: Artifact,
) -> None:
    """The learning rate with the lowest validation loss for every tuned method. No test document is used."""
    n = comparison_documents.json("num_experts")
    setup = Setup.of(store.directory, comparison_documents, recipe, base_model)
    runs = [
        planned_run(method, config.seed, rate, n, recipe, base_model, config.max_tokens)
        for method, rates in config.rates.items()
        for rate in rates
    ]
    artifacts = build_runs([(setup, run) for run in runs], launcher, context.log.info)
    losses = [mean_loss(artifact, VALIDATION) for artifact in artifacts]
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
