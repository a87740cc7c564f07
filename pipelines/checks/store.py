"""Checks of the store: its folder, and the artifacts that a run reads from earlier runs."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from pipelines.checks.configured_run import ConfiguredRun
from pipelines.checks.problem import MISSING, AnyProblem, Problem, Refusal, unknown_names
from pipelines.corpus.sources import VARIABLE
from pipelines.store.artifacts import RECORD, ArtifactError
from pipelines.store.assets import ASSETS
from pipelines.store.io_manager import ArtifactStore
from pipelines.store.runs import made_by, newest

FIELD = "resources.store.config"
_ID = re.compile(r"[0-9a-f-]+")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


def problems(run: ConfiguredRun) -> Iterator[AnyProblem]:
    """Problems of the store and of the inputs that the run takes from it."""
    store = run.resources.get("store")
    if store is None:
        return
    wrong = [*folder(f"{FIELD}.directory", store.directory), *_named(run, store)]
    yield from wrong or _inputs(run, store)


def folder(field: str, given: str, what: str = "the folder of the store") -> Iterator[AnyProblem]:
    """Check that a folder can be written to, or created."""
    if not given.strip() or "\0" in given:
        yield Problem(field, what, given, "Name one, such as outputs/my-corpus.")
        return
    if given.startswith("~") or VARIABLE.search(given):
        advice = "`~` and variables are not replaced here, as they are in paths of sources."
        yield Problem(field, "a path that is written out", given, advice)
        return
    if "://" in given:
        yield Problem(field, "a folder of this machine", given, "A URL would become a folder of that name.")
        return
    existing = Path(given).absolute()
    if existing == Path(existing.anchor):
        yield Problem(field, "a folder of its own", given, "Name one, such as outputs/my-corpus.")
        return
    try:
        while not existing.exists():
            existing = existing.parent
    except OSError as error:
        yield Problem(field, "a folder", given, f"{error.strerror}.")
        return
    if not existing.is_dir():
        yield Problem(field, "a folder", given, f"{existing} is a file. Name another folder.")
    elif existing != Path(given).absolute() and not os.access(existing, os.W_OK):
        yield Problem(field, "a folder that can be made", given, f"{existing} cannot be written to by this user.")


def _named(run: ConfiguredRun, store: ArtifactStore) -> Iterator[AnyProblem]:
    """Check the names of runs and inputs, also of unused ones."""
    if store.from_run is not None and not _ID.fullmatch(store.from_run):
        yield Problem(f"{FIELD}.from_run", "the id of a run, or its first digits", store.from_run)
    yield from unknown_names(f"{FIELD}.inputs", "asset", list(store.inputs), ASSETS)
    for asset, fingerprint in store.inputs.items():
        if not _FINGERPRINT.fullmatch(fingerprint):
            advice = f"It is the name of a folder in {store.path / asset}."
            yield Problem(f"{FIELD}.inputs.{asset}", "a fingerprint (16 hex digits)", fingerprint, advice)
        if asset in run.assets:
            advice = "Leave it out, or take a job that does not make it."
            yield Problem(f"{FIELD}.inputs.{asset}", "an asset that the run does not make itself", fingerprint, advice)


def _inputs(run: ConfiguredRun, store: ArtifactStore) -> Iterator[AnyProblem]:
    """Check that every input that the run does not make itself is named and exists."""
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
