"""The driver of `sharded_corpus`: it hands the tasks to the engine and waits for them.

It runs in the step's own process, or as a process of its own (`python -m pipelines.engine.driver`) under Dagster Pipes,
which carries the request there, and the log and the result back.
"""

import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import dagster as dg

from pipelines.engine.resource import ShardEngine

if TYPE_CHECKING:
    from analysis.shards.corpus import ShardedConfig
    from analysis.sources import FilesSource


def corpus_in_shards(
    context: dg.AssetExecutionContext,
    engine: ShardEngine,
    sources: "Mapping[str, FilesSource]",
    evaluation: "Mapping[str, FilesSource]",
    out: str,
    settings: "ShardedConfig",
    code_version: str,
) -> dict[str, Any]:
    """The result of `analysis.shards.corpus.sharded_corpus`, computed where the engine says.

    Raises:
        dagster.Failure: the driver ended with an error.
    """
    given = {
        "sources": {name: asdict(source) for name, source in sources.items()},
        "evaluation": {name: asdict(source) for name, source in evaluation.items()},
        "out": out,
        "settings": asdict(settings),
        "code_version": code_version,
    }
    if engine.driver == "run":
        return _compute(engine, given, context.log.info)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=dg.PreviewWarning)  # of a part of Pipes that only Dagster uses
        done = dg.PipesSubprocessClient().run(
            context=context.op_execution_context,
            command=[sys.executable, "-m", "pipelines.engine.driver"],
            extras={"engine": engine.model_dump(), "given": given},
        )
    answer: dict[str, Any] = done.get_custom_messages()[-1]
    if "error" in answer:
        raise dg.Failure(answer["error"], allow_retries=False)
    return answer


def _compute(engine: ShardEngine, given: Mapping[str, Any], log: Callable[[str], object]) -> dict[str, Any]:
    from analysis.corpus.cleaning import CleanConfig
    from analysis.shards.corpus import ShardedConfig, sharded_corpus
    from analysis.sources import FilesSource

    sources, evaluation = (
        {name: FilesSource(**fields | {"paths": tuple(fields["paths"])}) for name, fields in given[role].items()}
        for role in ("sources", "evaluation")
    )
    settings = ShardedConfig(**given["settings"] | {"clean": CleanConfig(**given["settings"]["clean"])})
    with engine.started() as started:
        return sharded_corpus(
            sources,
            given["out"],
            started,
            settings,
            evaluation=evaluation,
            code_version=given["code_version"],
            log=log,
        )


def main() -> None:
    """Compute what the context of Pipes asks for. An expected error becomes the answer."""
    from dagster_pipes import open_dagster_pipes

    from analysis.engine.tasks import ShardError

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with open_dagster_pipes() as pipes:
        try:
            answer = _compute(ShardEngine(**pipes.extras["engine"]), pipes.extras["given"], pipes.log.info)
        except (ShardError, ValueError, OSError, dg.Failure) as error:
            pipes.log.debug(traceback.format_exc())
            answer = {"error": str(error)}
        pipes.report_custom_message(answer)


def _end_with(parent: int) -> None:
    """End as soon as the step's process is gone: a second driver may follow it."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main()
