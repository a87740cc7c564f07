"""Checks of comparisons, the paper's study, and benchmarks."""

import importlib.util
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from pipelines.checks.configured_run import ConfiguredRun, trained_methods
from pipelines.checks.problem import MISSING, AnyProblem, Problem, Refusal, listed, unknown_names
from pipelines.checks.sources import source_names
from pipelines.corpus.sources import expanded
from pipelines.store.configuration import LARGEST_SEED
from pipelines.study.benchmarks import HarnessConfig
from pipelines.study.experiments import EXPERIMENTS, NUM_CLUSTERS, planned_cells
from pipelines.training.losses import BASE


def problems(run: ConfiguredRun) -> Iterator[AnyProblem]:
    """Problems of the jobs compare, study and one_run."""
    yield from _rates(run)
    yield from _comparison(run)
    yield from _study(run)
    yield from _one_run(run)
    yield from _method_benchmarks(run)
    yield from _study_benchmarks(run)


def _rates(run: ConfiguredRun) -> Iterator[AnyProblem]:
    config, field = run.configs.get("learning_rates"), "ops.learning_rates.config.rates"
    if config is None:
        return
    yield from _tried(config.rates, field)
    compared = {name for key, names in trained_methods(run).items() if key != field for name in names}
    for method in config.rates:
        if compared and method in trained_methods(run)[field] and method not in compared:
            what = f"methods that this run compares ({listed(sorted(compared))})"
            yield Problem(field, what, method, "Leave it out, or compare it.")
    documents = run.configs.get("comparison_documents")
    if config.rates and documents is not None and documents.validation_documents_per_source == 0:
        advice = "Rates are chosen by the loss of validation documents."
        name = "ops.comparison_documents.config.validation_documents_per_source"
        yield Problem(name, "at least 1 with learning rates to tune", 0, advice)


def _tried(of_method: Mapping[str, list[float]], field: str) -> Iterator[AnyProblem]:
    for method, rates in of_method.items():
        if not rates or len(set(rates)) < len(rates) or not all(0 < rate < float("inf") for rate in rates):
            yield Problem(f"{field}.{method}", "different rates of more than 0", rates)


def _comparison(run: ConfiguredRun) -> Iterator[AnyProblem]:
    config, field = run.configs.get("method_comparison"), "ops.method_comparison.config"
    if config is None:
        return
    if not config.methods:
        yield Problem(f"{field}.methods", "at least one method", [])
    elif config.reference not in config.methods:
        advice = "The others are compared with it: add it, or take another."
        yield Problem(f"{field}.reference", f"one of the methods {listed(config.methods)}", config.reference, advice)
    yield from _seeds(config.seeds, f"{field}.seeds")


def _seeds(seeds: list[int], field: str) -> Iterator[AnyProblem]:
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed <= LARGEST_SEED for seed in seeds):
        yield Problem(field, f"different seeds from 0 to {LARGEST_SEED:,}, at least one", seeds)


def _study(run: ConfiguredRun) -> Iterator[AnyProblem]:
    config, field = run.configs.get("study_runs"), "ops.study_runs.config"
    if config is None:
        return
    if not config.experiments:
        yield Problem(f"{field}.experiments", f"some of {listed(EXPERIMENTS)}", [])
    yield from unknown_names(f"{field}.experiments", "experiment", config.experiments, EXPERIMENTS)
    yield from _seeds(config.seeds, f"{field}.seeds")
    yield from _tried(config.rates, f"{field}.rates")
    methods = sorted({cell.method for cell in planned_cells(EXPERIMENTS, NUM_CLUSTERS)} - {BASE})
    yield from unknown_names(f"{field}.rates", "method", list(config.rates), methods)
    if config.rates and config.validation_documents_per_source == 0:
        advice = "Rates are chosen by the loss of validation documents."
        yield Problem(f"{field}.validation_documents_per_source", "at least 1 with rates to tune", 0, advice)
    yield from _domains(run, config, field)
    for name in config.experiments if config.domains else ():
        if name in EXPERIMENTS and not set(EXPERIMENTS[name].domains) & set(config.domains):
            advice = f"It has no row without one. Give it sources under {field}.domains, or leave it out."
            what = f"a domain of {name} ({listed(EXPERIMENTS[name].domains)})"
            yield Problem(f"{field}.experiments", what, list(config.domains), advice)


def _domains(run: ConfiguredRun, config: Any, field: str) -> Iterator[AnyProblem]:
    """Check that domains are known and their sources are in the corpus."""
    field = f"{field}.domains"
    if not config.domains:
        yield Problem(field, f"sources for some of {listed(NUM_CLUSTERS)}", {})
    yield from unknown_names(field, "domain", list(config.domains), NUM_CLUSTERS)
    raw = run.configs.get("raw_documents")
    there = None if raw is None else [name for source in raw.sources for name in source_names(source)]
    for domain, sources in config.domains.items():
        if not sources:
            yield Problem(f"{field}.{domain}", "at least one source", [])
        if there is not None:
            yield from unknown_names(f"{field}.{domain}", "source", sources, there)


def _one_run(run: ConfiguredRun) -> Iterator[AnyProblem]:
    config, field = run.configs.get("study_run"), "ops.study_run.config"
    if config is None:
        return
    from pipelines.defs.study.study_run import PARTITIONS

    keys = PARTITIONS.get_partition_keys()
    if run.partition is None or run.partition not in keys:
        advice = f"""Name one, as {keys[0]}: --tags '{{"dagster/partition": "{keys[0]}"}}'."""
        got = MISSING if run.partition is None else run.partition
        yield Problem("tags.dagster/partition", "method, seed and learning rate of the run", got, advice)
    yield from _domains(run, config, field)
    if config.domains and config.domain not in config.domains:
        yield Problem(f"{field}.domain", f"one of the domains {listed(config.domains)}", config.domain)


def _method_benchmarks(run: ConfiguredRun) -> Iterator[AnyProblem]:
    config, field = run.configs.get("method_benchmarks"), "ops.method_benchmarks.config"
    if config is None or not (config.tasks or config.methods):
        return
    if not config.tasks:
        advice = "Without one, nothing is measured: name some, or leave the methods out."
        yield Problem(f"{field}.tasks", "at least one benchmark with methods", [], advice)
        return
    yield from _harness(config, field, config.tasks)
    comparison = run.configs.get("method_comparison")
    if comparison is not None:
        yield from unknown_names(f"{field}.methods", "method", config.methods, [BASE, *comparison.methods])


def _study_benchmarks(run: ConfiguredRun) -> Iterator[AnyProblem]:
    config, field = run.configs.get("study_benchmarks"), "ops.study_benchmarks.config"
    if config is None or not config.tasks:
        return
    study = run.configs.get("study_runs")
    if study is not None:
        yield from unknown_names(f"{field}.tasks", "domain", list(config.tasks), study.domains)
    yield from _harness(config, field, list(dict.fromkeys(config.tasks.values())))


def _harness(config: HarnessConfig, field: str, tasks: Collection[str]) -> Iterator[AnyProblem]:
    """Check that benchmarks and their files exist, and that generated programs may run here."""
    from hydralora.harness import BENCHMARKS

    yield from unknown_names(f"{field}.tasks", "benchmark", list(tasks), BENCHMARKS)
    if importlib.util.find_spec("lm_eval") is None:
        advice = "Install it: pip install 'hydralora[eval]'."
        yield Problem(f"{field}.tasks", "lm-evaluation-harness for benchmarks", "no such package", advice)
    if config.corpora is not None:
        try:
            if not config.corpora.strip() or not Path(expanded(config.corpora)).is_dir():
                yield Problem(f"{field}.corpora", "a folder", config.corpora, f"Looked from {Path.cwd()}.")
        except dg.Failure as error:
            yield Refusal(f"{field}.corpora", str(error.description))
    if "humaneval" in tasks:
        yield from _code(config, field)


def _code(config: HarnessConfig, field: str) -> Iterator[AnyProblem]:
    from hydralora.harness.sandbox import Sandbox, SandboxError

    if not config.allow_code_execution:
        advice = "humaneval runs programs that the model writes, isolated by bubblewrap. Allow it, or leave it out."
        yield Problem(f"{field}.allow_code_execution", "true for humaneval", False, advice)
        return
    try:
        Sandbox(isolated=not config.unsafe_no_isolation).check()
    except SandboxError as error:
        yield Refusal(f"{field}.allow_code_execution", str(error))
