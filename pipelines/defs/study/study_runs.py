"""The runs of the paper's tables and figures on a base model and corpora of one's own, all together or one by one."""

import math
from dataclasses import dataclass, replace

import dagster as dg
import polars as pl

from pipelines.defs.evaluation import BASE
from pipelines.defs.study.learning_rates import rate_of
from pipelines.store.artifacts import Artifact, Draft, source_version
from pipelines.store.assets import Check, artifact_asset, markdown_table, materialized
from pipelines.store.io_manager import ArtifactStore
from pipelines.study.costs import check_meter, measure_costs
from pipelines.study.experiments import EXPERIMENTS, MATH, NUM_CLUSTERS, Cell, planned_cells
from pipelines.study.run_documents import TRAINING, Split, read_run_documents
from pipelines.study.runs import CODE, Run, Setup, build_run, build_runs, mean_loss, run_table
from pipelines.study.sizes import matched_parameters, method_sizes
from pipelines.study.study_documents import Corpus, study_documents
from pipelines.training.launcher import Launcher
from pipelines.training.recipe import BaseModel, Recipe

VERSION = source_version(
    *CODE,
    "pipelines.study.costs",
    "pipelines.defs.study.study_runs",
    "pipelines.study.experiments",
    "pipelines.study.sizes",
    "pipelines.study.study_documents",
)
TUNED = "tuned"
PARTITIONS = dg.StaticPartitionsDefinition(
    [
        f"{method}:seed-{seed}:{rate}"
        for method in sorted({cell.method for cell in planned_cells(EXPERIMENTS, ["general", "mixed"])})
        for seed in range(3)
        for rate in (TUNED, "0.0001", "0.0005", "0.001", "0.002", "0.004", "0.01", "0.03")
    ]
)
"""Method, seed and learning rate; see docs/decisions/0004."""


class DomainsConfig(dg.Config):
    """Which sources make up each domain of `pipelines.study.experiments`, and what of them is not trained on."""

    domains: dict[str, list[str]]
    validation_documents_per_source: int = 50
    held_out_documents_per_source: int | None = 200

    def split(self) -> Split:
        """As `pipelines.study.run_documents` takes it."""
        return Split(self.validation_documents_per_source, self.held_out_documents_per_source)


class StudyConfig(DomainsConfig):
    """Which experiments, with which seeds."""

    experiments: list[str] = list(EXPERIMENTS)
    seeds: list[int] = [0]
    cost_steps: int = 8
    """Of each method of Table 4, trained alone; 0: costs are not measured."""
    measure_energy: bool = True


class OneRunConfig(DomainsConfig):
    """Where the run of a partition is trained."""

    domain: str = "general"
    num_experts: int = 3


@dataclass(frozen=True)
class Planner:
    """Makes runs of cells: documents, rate and size of each."""

    store: ArtifactStore
    recipe: Recipe
    base_model: BaseModel
    corpus: Corpus
    learning_rates: Artifact
    config: DomainsConfig

    def setup(self, domain: str) -> Setup:
        """What all runs of a domain share.

        Raises:
            dagster.Failure: a domain that no experiment knows, or without sources.
        """
        if domain not in NUM_CLUSTERS:
            raise dg.Failure(f"Expected domains among {', '.join(NUM_CLUSTERS)}, got {domain!r}", allow_retries=False)
        try:
            documents = study_documents(
                self.store,
                self.corpus,
                self.config.domains[domain],
                NUM_CLUSTERS[domain],
                self.config.split(),
                self.recipe,
                self.base_model,
            )
        except ValueError as error:
            raise dg.Failure(f"Nothing was trained. {domain}: {error}", allow_retries=False) from error
        return Setup.of(self.store.directory, documents, self.recipe, self.base_model)

    def run(self, cell: Cell, seed: int, rate: float | None = None) -> Run:
        """The run of a cell, at the method's own rate if none is given."""
        if cell.method == BASE:
            return Run(BASE, seed, 0.0, cell.num_experts)
        if rate is None:
            rate = rate_of(cell.method, self.learning_rates, self.recipe)
        size = matched_parameters(cell.method, self.base_model, self.recipe.settings(cell.num_experts))
        return Run(cell.method, seed, rate, cell.num_experts, match_parameters=size)


@artifact_asset(
    group="study",
    version=VERSION,
    kinds={"torch", "polars"},
    blocking=("every_run_measured",),
    warnings=("training_helps",),
    pool="gpu",
)
def study_runs(
    context: dg.AssetExecutionContext,
    config: StudyConfig,
    store: dg.ResourceParam[ArtifactStore],
    recipe: Recipe,
    base_model: BaseModel,
    launcher: Launcher,
    corpus_documents: Artifact,
    document_features: Artifact,
    learning_rates: Artifact,
) -> dg.MaterializeResult:
    """Every run that the paper's tables need, each an artifact of its own, with its losses on held-out documents."""
    log = context.log.info
    corpus = Corpus(corpus_documents, document_features)
    planner = Planner(store, recipe, base_model, corpus, learning_rates, config)

    def build(draft: Draft) -> None:
        measures_costs = config.cost_steps > 0 and "table_4" in config.experiments and MATH in config.domains
        if measures_costs:
            check_meter(measure_energy=config.measure_energy)
        cells = planned_cells(config.experiments, config.domains)
        setups = {domain: planner.setup(domain) for domain in config.domains}
        draft.write_table("sizes", study_sizes(cells, setups, planner))
        planned = [(cell, planner.run(cell, seed)) for seed in config.seeds for cell in cells]
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
            costs = measure_costs(
                setups[MATH], chosen, config.cost_steps, measure_energy=config.measure_energy, log=log
            )
            draft.write_table("costs", costs)

    artifact = store.build(
        "study_runs",
        build,
        code_version=VERSION,
        config={**config.model_dump(), **recipe.identity(), **base_model.identity()},
        inputs={
            "corpus_documents": corpus_documents,
            "document_features": document_features,
            "learning_rates": learning_rates,
        },
    )
    runs = artifact.read("runs")
    base = runs.filter(pl.col("method") == BASE).select("domain", base_loss="loss").unique()
    worse = runs.join(base, on="domain").filter(pl.col("loss") >= pl.col("base_loss"))
    worse = worse.filter(pl.col("method") != BASE).select("method", "domain").unique().sort(pl.all())
    names = ", ".join(f"{method} on {domain}" for method, domain in worse.iter_rows())
    expected = len(planned_cells(config.experiments, config.domains)) * len(config.seeds)
    return materialized(
        artifact,
        table="runs",
        metadata={"runs_by_loss": markdown_table(runs.sort("domain", "loss"), rows=300)},
        checks=[
            Check("every_run_measured", len(runs) == expected, f"{len(runs)} of {expected} runs"),
            Check("training_helps", not names, f"no better than the base: {names}" if names else "all", warning=True),
        ],
    )


@artifact_asset(
    group="study_partitions",
    version=VERSION,
    kinds={"torch"},
    blocking=("loss_finite",),
    pool="gpu",
    partitions_def=PARTITIONS,
)
def study_run(
    context: dg.AssetExecutionContext,
    config: OneRunConfig,
    store: dg.ResourceParam[ArtifactStore],
    recipe: Recipe,
    base_model: BaseModel,
    corpus_documents: Artifact,
    document_features: Artifact,
    learning_rates: Artifact,
) -> dg.MaterializeResult:
    """One run of the study: the partition names method, seed and learning rate. `study_runs` finds it done."""
    corpus = Corpus(corpus_documents, document_features)
    planner = Planner(store, recipe, base_model, corpus, learning_rates, config)
    method, seed, rate = context.partition_key.split(":")
    cell = Cell(method, config.domain, config.num_experts)
    run = planner.run(cell, int(seed.removeprefix("seed-")), None if rate == TUNED else float(rate))
    artifact = build_run(planner.setup(cell.domain), run, context.log.info)
    loss = mean_loss(artifact)
    return materialized(
        artifact,
        table="losses",
        metadata={"held_out_loss": loss, "domain": config.domain},
        checks=[Check("loss_finite", math.isfinite(loss), f"held-out loss {loss:.4f}")],
    )


def study_sizes(cells: list[Cell], setups: dict[str, Setup], planner: Planner) -> pl.DataFrame:
    """Sizes of all methods for each N; a method that does not fit ends the job before anything is trained."""
    from hydralora.methods import MethodError
    from hydralora.training import plan_run

    tables = []
    for n in sorted({cell.num_experts for cell in cells}):
        own = [cell for cell in cells if cell.num_experts == n and cell.method != BASE]
        documents = read_run_documents(setups[own[0].domain].documents, TRAINING)
        steps = plan_run(documents, planner.recipe.training_config(own[0].method)).num_steps
        settings = replace(planner.recipe.settings(n), total_steps=steps)
        methods = list(dict.fromkeys(cell.method for cell in own))
        try:
            sizes = method_sizes(planner.base_model, methods, settings)
        except (MethodError, ValueError) as error:
            raise dg.Failure(f"Nothing was trained. {error}", allow_retries=False) from error
        tables.append(sizes.with_columns(num_experts=n))
    return pl.concat(tables)
