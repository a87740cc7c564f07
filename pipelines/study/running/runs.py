"""Many runs: trains the missing ones, in parallel if the launcher is configured so, and collects their losses."""

from collections.abc import Sequence
from functools import partial

import polars as pl

from pipelines.store.artifacts import Artifact, find_artifact
from pipelines.study.running.run import ASSET, Run, Setup, build_run, mean_loss
from pipelines.study.running.worker_pool import build_all
from pipelines.training.adapters import Log
from pipelines.training.launcher import Launcher
from pipelines.training.losses import BASE

RUN_SCHEMA = {
    "method": pl.String,
    "num_experts": pl.Int64,
    "seed": pl.Int64,
    "learning_rate": pl.Float64,
    "loss": pl.Float64,
    "fingerprint": pl.String,
    "steps": pl.Int64,
    "tokens": pl.Int64,
    "seconds": pl.Float64,
}


def build_runs(runs: Sequence[tuple[Setup, Run]], launcher: Launcher, log: Log) -> list[Artifact]:
    """Artifacts of runs, in order. Missing runs are trained, `launcher.parallel` at a time.

    Raises:
        dagster.Failure: some runs failed. The other runs are finished and will not be trained again.
    """
    missing = [
        (setup, run) for setup, run in runs if find_artifact(setup.directory, ASSET, **setup.identity(run)) is None
    ]
    if done := len(runs) - len(missing):
        log(f"{done} of {len(runs)} runs are already done")
    work = {f"{i} {run.label}": partial(build_run, setup, run) for i, (setup, run) in enumerate(missing, start=1)}
    build_all(work, launcher, log, lambda artifact: f"loss {mean_loss(artifact):.4f}")
    return [build_run(setup, run, log) for setup, run in runs]


def run_table(runs: Sequence[Run], artifacts: Sequence[Artifact]) -> pl.DataFrame:
    """One row per run: `method, num_experts, seed, learning_rate, loss, fingerprint, steps, tokens, seconds`.

    The base model has null for steps, tokens and seconds.
    """
    rows = []
    for run, artifact in zip(runs, artifacts, strict=True):
        record = {} if run.method == BASE else artifact.json("run")
        budget = (record.get(name) for name in ("steps", "tokens", "seconds"))
        own = (run.method, run.num_experts, run.seed, run.learning_rate)
        rows.append((*own, mean_loss(artifact), artifact.fingerprint, *budget))
    return pl.DataFrame(rows, schema=RUN_SCHEMA, orient="row")
