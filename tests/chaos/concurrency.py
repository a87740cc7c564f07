"""Several runs at once on one store, with equal or different configurations: each must hold what it holds alone."""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.chaos.job import Setup, contents, differences, made, run, setup, start, wait

VARIANTS = 8


def variant(folder: Path, number: int, store: Path, home: Path) -> Setup:
    """Configurations that share some stages and differ in others."""
    ops: dict[str, dict[str, Any]] = {
        "document_features": {"n_components": 8 + number % 4},
        "cluster_sweep": {"random_state": number},
    }
    if number % 2:
        ops["corpus_documents"] = {"test_fraction": 0.2 + 0.05 * (number // 2)}
    return setup(folder, "corpus", store, home=home, **ops)


def runs_at_once(folder: Path, home: Path, *, repetitions: int, runs: int = VARIANTS) -> dict[str, Any]:
    """Runs with different configurations, then with the same; each compared with its configuration alone."""
    folder.mkdir(parents=True, exist_ok=True)
    alone = [_alone(folder, number, home) for number in range(runs)]
    result: dict[str, Any] = {"runs": 0, "right": 0, "failed": [], "wrong": []}
    for repetition in range(repetitions):
        for kind in ("different", "same"):
            store = folder / f"{kind}-{repetition}"
            setups = [variant(folder, n if kind == "different" else 0, store, home) for n in range(runs)]
            logs = [folder / f"{kind}-{repetition}-{n}.log" for n in range(runs)]
            codes = [wait(process) for process in [start(*pair) for pair in zip(setups, logs, strict=True)]]
            for n, code in enumerate(codes):
                result["runs"] += 1
                name = f"{kind} {repetition} {n}"
                if code:
                    result["failed"].append({"run": name, "log": logs[n].read_text()[-2000:]})
                    continue
                found = differences(alone[n if kind == "different" else 0], made(store, logs[n]))
                result["right"] += not found
                result["wrong"] += [{"run": name, "files": found}] if found else []
            shutil.rmtree(store)
            print(f"{kind} {repetition}: {result['right']} of {result['runs']} right", flush=True)
    return result


def _alone(folder: Path, number: int, home: Path) -> dict[str, str]:
    """What a configuration makes alone; kept between two calls on one folder."""
    kept = folder / f"alone-{number}.json"
    if not kept.exists():
        work, log = variant(folder, number, folder / f"alone-{number}", home), folder / f"alone-{number}.log"
        assert run(work, log) == 0, log.read_text()[-3000:]
        assert made(work.store, log) == contents(work.store)
        kept.write_text(json.dumps(contents(work.store)))
    found: dict[str, str] = json.loads(kept.read_text())
    return found
