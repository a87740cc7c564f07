"""Comparison of methods that were trained on the same documents with the same budget and batches."""

import dagster as dg
import polars as pl
from pydantic import Field

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.io_manager import ArtifactStore
from pipelines.store.metadata import markdown_table
from pipelines.store.thumbnails import write_thumbnail
from pipelines.study.learning_rates import rate_of
from pipelines.study.running.costs import check_meter, measure_costs
from pipelines.study.running.run import Run, Setup
from pipelines.study.running.runs import build_runs, run_table
from pipelines.study.sizes import checked_sizes, planned_run
from pipelines.training.launcher import Launcher
from pipelines.training.losses import BASE
from pipelines.training.recipe import BaseModel, Recipe


class ComparisonConfig(dg.Config):
    """Methods, seeds, intervals and costs."""

    methods: list[str]
    """Rows of `hydralora.methods`."""
    reference: str = "lora_matched"
    """The method that the others are compared with; one of `methods`."""
    seeds: list[int] = [0]
    resamples: int = Field(1_000, ge=1, le=1_000_000)
    """Number of bootstrap resamples."""
    cost_steps: int = Field(8, ge=0)
    """Steps of each method that are trained alone for speed, memory and energy; 0: costs are not measured."""
    measure_energy: bool = True


def _described(artifact: Artifact, config: ComparisonConfig) -> Description:
    loss = dict(artifact.read("comparison").select("method", "loss").iter_rows())
    missing = [method for method in config.methods if method not in loss]
    beats = f"{config.reference} {loss[config.reference]:.3f}, base {loss[BASE]:.3f}"
    return Description(
        table="comparison",
        metadata={
            "comparison": dg.MetadataValue.md(artifact.path("comparison.md").read_text()),
            "by_source": markdown_table(artifact.read("by_source"), rows=50),
        },
        checks=[
            Check(
                "every_method_measured",
                not missing,
                ", ".join(missing) or f"{len(loss) - 1} methods and the base",
                {"missing": len(missing)},
            ),
            Check(
                "reference_beats_base",
                loss[config.reference] < loss[BASE],
                beats,
                {"reference_loss": loss[config.reference], "base_loss": loss[BASE]},
            ),
        ],
    )


@artifact_asset(
    group="comparison",
    kinds={"pytorch", "polars"},
    describe=_described,
    blocking={"every_method_measured": "Every method has a held-out loss."},
    warnings={"reference_beats_base": "The reference predicts held-out answers better than the base model."},
    pool="gpu",
)
def method_comparison(
    draft: Draft,
    context: dg.AssetExecutionContext,
    config: ComparisonConfig,
    store: ArtifactStore,
    recipe: Recipe,
    base_model: BaseModel,
    launcher: Launcher,
    comparison_documents: Artifact,
    learning_rates: Artifact,
) -> None:
    """One table: held-out loss with intervals, difference to the LoRA of the same size, parameters, speed, energy."""
    from analysis.figures import png
    from analysis.figures.comparison import compared_methods
    from analysis.methods.comparison import compare_losses, comparison_markdown, losses_by_source

    if config.cost_steps:
        check_meter(measure_energy=config.measure_energy)
    n = comparison_documents.json("num_experts")
    log, setup = context.log.info, Setup.of(store.directory, comparison_documents, recipe, base_model)
    if config.reference not in config.methods:
        expected = f"Expected the reference among the methods {config.methods}, got {config.reference!r}"
        raise dg.Failure(expected, allow_retries=False)
    sizes = checked_sizes(comparison_documents, config.methods, n, recipe, base_model)
    runs = [
        planned_run(method, seed, rate_of(method, learning_rates, recipe), n, recipe, base_model)
        for method in config.methods
        for seed in config.seeds
    ]
    base = [Run(BASE, seed, 0.0, 1) for seed in config.seeds]
    artifacts = build_runs([(setup, run) for run in [*base, *runs]], launcher, log)
    done = run_table([*base, *runs], artifacts)
    draft.write_table("runs", done)
    losses = pl.concat(artifact.read("losses") for artifact in artifacts)
    table = compare_losses(losses, config.reference, resamples=config.resamples)
    rates = done.filter(pl.col("method") != BASE).select("method", "learning_rate").unique()
    table = table.join(rates, on="method", how="left").join(sizes, on="method", how="left")
    if config.cost_steps:
        first = [run for run in runs if run.seed == config.seeds[0]]
        costs = measure_costs(setup, first, config.cost_steps, measure_energy=config.measure_energy, log=log)
        table = table.join(costs, on="method", how="left")
    draft.write_table("comparison", table.sort("loss"))
    draft.write_table("by_source", losses_by_source(losses).pivot("source", index="method", values="loss"))
    draft.write_table("document_losses", losses)
    draft.write_bytes("comparison.md", comparison_markdown(table, config.reference).encode())
    picture = compared_methods(table, config.reference)
    draft.write_bytes("comparison.png", png(picture.figure))
    write_thumbnail(draft, picture)
