"""The runs behind the paper's tables and figures, on your own base model and corpora."""

import dagster as dg
import polars as pl
from pydantic import Field

from analysis.methods.rates import best_rate
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.io_manager import ArtifactStore
from pipelines.store.metadata import markdown_table
from pipelines.study.experiments import EXPERIMENTS, MATH, planned_cells
from pipelines.study.planning import DomainsConfig, Planner, study_sizes
from pipelines.study.running.costs import check_meter, measure_costs
from pipelines.study.running.runs import build_runs, run_table
from pipelines.study.study_documents import Corpus
from pipelines.study.tuning import rates_table, tune
from pipelines.training.launcher import Launcher
from pipelines.training.losses import BASE
from pipelines.training.recipe import BaseModel, Recipe


class StudyConfig(DomainsConfig):
    """Which experiments, with which seeds."""

    experiments: list[str] = list(EXPERIMENTS)
    rates: dict[str, list[float]] = {}
    """Method -> rates to begin with. Each domain and N goes on by factors of 2 until a worse rate is on each side of
    the best one, with the first seed and validation documents. Other methods have the recipe's rate."""
    seeds: list[int] = [0]
    cost_steps: int = Field(8, ge=0)
    """Of each method of Table 4, trained alone; 0: costs are not measured."""
    measure_energy: bool = True


def _described(artifact: Artifact, config: StudyConfig) -> Description:
    runs = artifact.read("runs")
    base = runs.filter(pl.col("method") == BASE).select("domain", base_loss="loss").unique()
    worse = runs.join(base, on="domain").filter(pl.col("loss") >= pl.col("base_loss"))
    worse = worse.filter(pl.col("method") != BASE).select("method", "domain").unique().sort(pl.all())
    names = ", ".join(f"{method} on {domain}" for method, domain in worse.iter_rows())
    edges = artifact.read("rates").filter(~pl.col("bracketed")).select("method", "domain").unique().sort(pl.all())
    at_edge = ", ".join(f"{method} on {domain}" for method, domain in edges.iter_rows())
    expected = len(planned_cells(config.experiments, config.domains)) * len(config.seeds)
    return Description(
        table="runs",
        metadata={"runs_by_loss": markdown_table(runs.sort("domain", "loss"), rows=300)},
        checks=[
            Check("every_run_measured", len(runs) == expected, f"{len(runs)} of {expected} runs", {"runs": len(runs)}),
            Check(
                "best_rates_bracketed", not at_edge, at_edge or "inside of what was tried", {"at_an_edge": len(edges)}
            ),
            Check(
                "training_helps",
                not names,
                f"no better than the base: {names}" if names else "all",
                {"no_better": len(worse)},
            ),
        ],
    )


@artifact_asset(
    group="study",
    kinds={"pytorch", "polars"},
    describe=_described,
    blocking={"every_run_measured": "Every planned run has a held-out loss."},
    warnings={
        "best_rates_bracketed": "A worse rate lies on each side of every tuned rate.",
        "training_helps": "Every method predicts held-out answers better than the base model.",
    },
    pool="gpu",
)
def study_runs(
    draft: Draft,
    context: dg.AssetExecutionContext,
    config: StudyConfig,
    store: ArtifactStore,
    recipe: Recipe,
    base_model: BaseModel,
    launcher: Launcher,
    corpus_documents: Artifact,
    document_features: Artifact,
    tokenised_documents: Artifact,
) -> None:
    """Train every method of the paper's tables on its domains, and measure its losses on held-out documents."""
    log = context.log.info
    corpus = Corpus(corpus_documents, document_features, tokenised_documents)
    planner = Planner(store, recipe, base_model, corpus, config)
    measures_costs = config.cost_steps > 0 and "table_4" in config.experiments and MATH in config.domains
    if measures_costs:
        check_meter(measure_energy=config.measure_energy)
    cells = planned_cells(config.experiments, config.domains)
    setups = {domain: planner.setup(domain) for domain in config.domains}
    draft.write_table("sizes", study_sizes(cells, setups, planner))
    tried = tune(cells, config.rates, setups, planner, config.seeds[0], launcher, log)
    draft.write_table("rates", rates_table(tried))
    rates = {cell: best_rate(tried[cell]) if cell in tried else recipe.learning_rate_of(cell.method) for cell in cells}
    planned = [(cell, planner.run(cell, seed, rates[cell])) for seed in config.seeds for cell in cells]
    artifacts = build_runs([(setups[cell.domain], run) for cell, run in planned], launcher, log)
    domains = pl.Series("domain", [cell.domain for cell, _ in planned])
    runs = run_table([run for _, run in planned], artifacts).insert_column(0, domains)
    draft.write_table("runs", runs)
    losses = [
        artifact.read("losses").with_columns(domain=pl.lit(cell.domain), num_experts=cell.num_experts)
        for (cell, _), artifact in zip(planned, artifacts, strict=True)
    ]
    draft.write_table("losses", pl.concat(losses))
    if measures_costs:
        first = [(cell, run) for cell, run in planned if run.seed == config.seeds[0] and cell.domain == MATH]
        chosen = [run for cell, run in first if cell in planned_cells(["table_4"], [MATH]) and run.method != BASE]
        costs = measure_costs(setups[MATH], chosen, config.cost_steps, measure_energy=config.measure_energy, log=log)
        draft.write_table("costs", costs)
