"""Checks of the job sharded: sources, which may be URLs, the output folder, and the engine."""

from collections.abc import Iterator
from typing import Any

from pipelines.checks.configured_run import ConfiguredRun
from pipelines.checks.corpus import LEAST_FOR_AN_ELBOW
from pipelines.checks.problem import AnyProblem, Problem, Refusal
from pipelines.checks.sources import HELD_OUT, files, is_held_out, names, refused
from pipelines.checks.store import folder
from pipelines.engine.resource import ShardEngine

FIELD = "ops.sharded_corpus.config"
MOST_WORKERS = 1_024


def problems(run: ConfiguredRun) -> Iterator[AnyProblem]:
    """Problems of the job sharded."""
    config = run.configs.get("sharded_corpus")
    if config is None:
        return
    yield from _settings(config)
    yield from _sources(config)
    if "://" in config.out:
        yield from _url(config.out, f"{FIELD}.out")
    else:
        yield from folder(f"{FIELD}.out", config.out, "the folder of the shards")
    if engine := run.resources.get("engine"):
        yield from _engine(engine, "resources.engine.config")


def _engine(engine: ShardEngine, field: str) -> Iterator[AnyProblem]:
    if not 1 <= engine.workers <= MOST_WORKERS:
        yield Problem(f"{field}.workers", f"at least 1 and at most {MOST_WORKERS:,}", engine.workers)
    if not engine.cpus_per_task > 0:
        yield Problem(f"{field}.cpus_per_task", "more than 0", engine.cpus_per_task)
    if engine.engine == "ray" and not engine.address.strip():
        yield Problem(f"{field}.address", "auto, or host:port of the cluster's head", engine.address)


def _settings(config: Any) -> Iterator[AnyProblem]:
    """Check the limits of `analysis.shards`."""
    from analysis.shards.corpus import ShardedConfig
    from pipelines.store.configuration import values_for

    values = values_for(ShardedConfig, config)
    try:
        ShardedConfig(**{name: value for name, value in values.items() if name != "clean"})
    except ValueError as error:
        name, _, reason = str(error).partition(": ")
        yield Refusal(f"{FIELD}.{name}", f"{reason}.") if name in values else Refusal(FIELD, f"{error}.")
    if config.max_clusters < LEAST_FOR_AN_ELBOW:
        advice = "A shorter curve has no elbow."
        yield Problem(f"{FIELD}.max_clusters", f"at least {LEAST_FOR_AN_ELBOW}", config.max_clusters, advice)
    if config.evaluation_sets and not config.clean.decontaminate:
        advice = "They are read to leave their texts out of the corpus. Leave one of them out."
        yield Problem(f"{FIELD}.clean.decontaminate", "true with evaluation_sets", False, advice)


def _sources(config: Any) -> Iterator[AnyProblem]:
    if not config.sources:
        yield Problem(f"{FIELD}.sources", "at least one source", [], "Each has a name, and paths under `read`.")
    elif all(is_held_out(source.read) for source in config.sources):
        got = [source.read.split for source in config.sources]
        yield Problem(f"{FIELD}.sources", "a source with documents to train on", got, HELD_OUT)
    for kind in ("sources", "evaluation_sets"):
        given = getattr(config, kind)
        yield from names(given, f"{FIELD}.{kind}")
        for i, source in enumerate(given):
            yield from _source(source.read, f"{FIELD}.{kind}[{i}].read")


def _source(read: Any, field: str) -> Iterator[AnyProblem]:
    wrong = list(files(read, field, must_exist=True, urls=True))
    for i, path in enumerate(read.paths):
        if "://" in path:
            wrong += _url(path, f"{field}.paths[{i}]")
    yield from wrong or refused(read, field)


def _url(url: str, field: str) -> Iterator[AnyProblem]:
    """Check that the URL's file system is known, without connecting to it."""
    from analysis.engine.files import open_url

    try:
        open_url(url)
    except ValueError as error:
        yield Refusal(field, f"{error}.")
