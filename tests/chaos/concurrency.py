"""Several runs at once on one store, with equal or different configurations: each must hold what it holds alone."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.home import prepare
from tests.chaos import postgres
from tests.chaos.job import NO_CAPTURE, STORE, Setup, contents, differences, made, run, setup, start, wait
from tests.chaos.progress import Outcome, Try

VARIANTS = 8


def variant(folder: Path, number: int, home: Path) -> Setup:
    """Configurations that share some stages and differ in others. All name one store, because the report prints it."""
    ops: dict[str, dict[str, Any]] = {
        "document_features": {"n_components": 8 + number % 4},
        "cluster_sweep": {"random_state": number},
    }
    if number % 2:
        ops["corpus_documents"] = {"test_fraction": 0.2 + 0.05 * (number // 2)}
    return setup(folder, "corpus", folder / STORE, home=home, **ops)


def tries(folder: Path, short: bool) -> Iterator[Try]:
    """Runs with different configurations, and with the same, on SQLite and on PostgreSQL."""
    runs, repetitions = (3, 1) if short else (VARIANTS, 3)
    kept = ("sqlite",) if short or postgres.programs() is None else ("sqlite", "postgresql")
    for storage in kept:
        for repetition in range(repetitions):
            for kind in ("different", "same"):
                attempt = partial(runs_at_once, folder / "crowd", storage, kind, repetition, runs)
                yield Try(f"{storage} {kind} {repetition}", attempt)


def runs_at_once(folder: Path, storage: str, kind: str, repetition: int, runs: int) -> Outcome:
    """Runs on one store; each compared with its configuration alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with _home(folder, storage) as home:
        alone = [_alone(folder, number, home) for number in range(runs if kind == "different" else 1)]
        store = folder / STORE
        shutil.rmtree(store, ignore_errors=True)
        setups = [variant(folder, n if kind == "different" else 0, home) for n in range(runs)]
        logs = [folder / f"{storage}-{kind}-{repetition}-{n}.log" for n in range(runs)]
        codes = [wait(process) for process in [start(*pair) for pair in zip(setups, logs, strict=True)]]
    expected = alone if kind == "different" else alone * runs
    failed = [log.read_text()[-2000:] for code, log in zip(codes, logs, strict=True) if code]
    wrong = [
        differences(one, made(store, log)) for one, log, code in zip(expected, logs, codes, strict=True) if not code
    ]
    wrong = [names for names in wrong if names]
    shutil.rmtree(store)
    return {
        "storage": storage,
        "runs": runs,
        "right": runs - len(failed) - len(wrong),
        "failed": failed,
        "wrong": wrong,
    }


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Figures for each storage."""
    found: dict[str, Any] = {}
    for storage in sorted({one["storage"] for one in outcomes}):
        of = [one for one in outcomes if one["storage"] == storage]
        found[storage] = {
            "runs": sum(one["runs"] for one in of),
            "right": sum(one["right"] for one in of),
            "failed": [text for one in of for text in one["failed"]],
            "wrong": [names for one in of for names in one["wrong"]],
        }
    if "postgresql" not in found:
        found["postgresql"] = {"not_tried": "long form only; needs PostgreSQL (Debian: apt-get install postgresql)"}
    return found


@contextmanager
def _home(folder: Path, storage: str) -> Iterator[Path]:
    """A Dagster home with this storage."""
    home = folder / f"home-{storage}"
    home.mkdir(exist_ok=True)
    if storage == "sqlite":
        (home / "dagster.yaml").write_text(NO_CAPTURE)
        prepare(home)
        yield home
        return
    with postgres.cluster() as url:
        (home / "dagster.yaml").write_text(f"{NO_CAPTURE}storage:\n  postgres:\n    postgres_url: {url}\n")
        prepare(home)
        yield home


def _alone(folder: Path, number: int, home: Path) -> dict[str, str]:
    """What a configuration makes alone; kept between two calls on one folder."""
    kept = folder / f"alone-{number}.json"
    if not kept.exists():
        work, log = variant(folder, number, home), folder / f"alone-{number}.log"
        shutil.rmtree(work.store, ignore_errors=True)
        assert run(work, log) == 0, log.read_text()[-3000:]
        assert made(work.store, log) == contents(work.store)
        kept.write_text(json.dumps(contents(work.store)))
    found: dict[str, str] = json.loads(kept.read_text())
    return found
