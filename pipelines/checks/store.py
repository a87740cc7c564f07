"""Where artifacts go, and whether what a run reads from earlier runs is there."""

import os
from collections.abc import Iterator
from pathlib import Path

from pipelines.checks.configured_run import ConfiguredRun
from pipelines.checks.problem import MISSING, AnyProblem, Problem, Refusal
from pipelines.store.artifacts import RECORD, ArtifactError
from pipelines.store.io_manager import ArtifactStore
from pipelines.store.runs import made_by, newest

FIELD = "resources.store.config"


def problems(run: ConfiguredRun) -> Iterator[AnyProblem]:
    """Of the store and of the inputs that the run takes from it."""
    store = run.resources.get("store")
    if store is None:
        return
    wrong = list(_directory(store))
    yield from wrong or _inputs(run, store)


def _directory(store: ArtifactStore) -> Iterator[AnyProblem]:
    field, given = f"{FIELD}.directory", store.directory
    if not given.strip() or "\0" in given:
        yield Problem(field, "the folder of the store", given, "Name one, such as outputs/my-corpus.")
        return
    existing = store.path.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
    except OSError as error:
        yield Problem(field, "a folder", given, f"{error.strerror}.")
        return
    if not existing.is_dir():
        yield Problem(field, "a folder", given, f"{existing} is a file. Name another folder.")
    elif existing != store.path.absolute() and not os.access(existing, os.W_OK):
        yield Problem(field, "a folder that can be made", given, f"{existing} cannot be written to by this user.")


def _inputs(run: ConfiguredRun, store: ArtifactStore) -> Iterator[AnyProblem]:
    """Every input that the run does not make itself is named, and there."""
    if not run.inputs:
        return
    made: dict[str, str] = {}
    if store.from_run is not None:
        try:
            made = made_by(store.path, store.from_run)
        except ArtifactError as error:
            yield Refusal(f"{FIELD}.from_run", str(error))
            return
    named = made | store.inputs
    missing = sorted(run.inputs - named.keys())
    if missing:
        what = "a run that made" if store.from_run is None else "another run, one that made"
        yield Problem(
            f"{FIELD}.from_run",
            f"{what} {', '.join(missing)}",
            MISSING if store.from_run is None else store.from_run,
            f"This run does not make that itself. {newest(store.path)}",
        )
    for asset in sorted(run.inputs & named.keys()):
        if not (store.path / asset / named[asset] / RECORD).is_file():
            field = f"{FIELD}.inputs.{asset}" if asset in store.inputs else f"{FIELD}.from_run"
            where: Path = store.path / asset
            advice = f"Its folder is not in {where.resolve()}. Make it again, or name another."
            yield Problem(field, f"a finished {asset}", named[asset], advice)
