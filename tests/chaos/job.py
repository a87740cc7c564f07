"""Jobs on the small corpus in processes that can be killed, and what is in a store, file by file."""

import contextlib
import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from tests.pipelines.small_corpus import corpus_ops, resources

STORE = "store"
"""Where the tries on one corpus have their store, one after the other."""
NAMES_TIMES = ("energy.png", "report.html", "README.md")
"""Files with times and energies in the middle of their text or picture: only their names are compared."""
TIMED = re.compile(r"seconds|_per_second|energy|hours|wait_share|digest|memory")
"""Fields of JSON that differ between two runs."""
NO_CAPTURE = """
telemetry: {enabled: false}
compute_logs: {module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}
"""
SMALL = {
    "component_adapters": {"max_tokens": 200, "parts": 1},
    "parameter_breakdown": {"umap": False},
    "routing_analysis": {"max_documents_per_source": 4, "examples": 2},
    "evaluation": {"max_documents_per_source": 6, "resamples": 50},
    "domain_exports": {"max_documents_per_domain": 2},
}


@dataclass(frozen=True)
class Setup:
    """A job, its configuration and its Dagster home."""

    job: str
    home: Path
    config: Mapping[str, Any]

    @property
    def store(self) -> Path:
        return Path(self.config["resources"]["store"]["config"]["directory"])


def setup(folder: Path, job: str, store: Path, *, home: Path | None = None, **ops: Mapping[str, Any]) -> Setup:
    """A job on the corpus of `folder`, into `store`; `ops` replaces single values of an asset's configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    values = corpus_ops(folder)
    if job == "corpus":
        values = {
            name: values[name] for name in ("raw_documents", "corpus_documents", "num_clusters") if name in values
        }
    else:
        values |= {name: {"config": value} for name, value in SMALL.items()}
    for name, changed in {"cluster_sweep": {"max_clusters": 4, "n_init": 1}, **ops}.items():
        values[name] = {"config": {**values.get(name, {}).get("config", {}), **changed}}
    given = resources(folder, recipe={"max_steps": 6, "save_steps": 2}) | {
        "store": {"config": {"directory": str(store)}}
    }
    if job == "corpus":
        given = {"store": given["store"]}
    return Setup(job, home or folder / "home", {"ops": values, "resources": given})


def load_libraries() -> None:
    """Import what the jobs import, once, so that a forked run begins at once."""
    import torch

    import hydralora.evaluation
    import hydralora.gates
    import hydralora.training.run  # noqa: F401
    import pipelines.definitions
    import pipelines.report.inputs  # noqa: F401

    torch.set_num_threads(1)


def start(run: Setup, log: Path) -> int:
    """Start a run in a process of its own; returns the process id. What it says goes to `log`."""
    from pipelines.definitions import build_defs

    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setpgid(0, 0)
        _renew_threads()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        _make_home(run.home)
        os.environ["HYDRALORA_CACHE"] = str(run.home / "cache")
        with dg.DagsterInstance.from_config(str(run.home)) as instance:
            job = build_defs().resolve_job_def(run.job)
            result = job.execute_in_process(run_config=dict(run.config), instance=instance, raise_on_error=False)
            log.with_suffix(".run").write_text(json.dumps({"run_id": result.run_id, "success": result.success}))
            for event in result.all_events:
                if event.is_step_failure:
                    print("FAILED", event.step_key, event.step_failure_data.error_display_string, flush=True)
            log.with_suffix(".modules").write_text("\n".join(sorted(sys.modules)))
            code = 0 if result.success else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _make_home(home: Path) -> None:
    """A home without Dagster's capture of standard output, which starts two processes for each step."""
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        (home / "dagster.yaml").write_text(NO_CAPTURE)


def _renew_threads() -> None:
    """Make torch's pool of threads anew, which a fork breaks: several threads at once would do it at first use."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


def wait(process: int) -> int:
    """The exit code; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def run(run: Setup, log: Path) -> int:
    """Run to the end."""
    return wait(start(run, log))


def reference(folder: Path, job: str) -> dict[str, str]:
    """What the job makes if nothing disturbs it; its store is kept as `reference`.

    It runs where the tries run, because the report names its store: elsewhere it would be another report.
    """
    work, log, kept = setup(folder, job, folder / STORE), folder / "reference.log", folder / "reference.json"
    if not kept.exists():
        shutil.rmtree(work.store, ignore_errors=True)
        assert run(work, log) == 0, log.read_text()[-3000:]
        assert not unlisted(work.store), unlisted(work.store)
        found = contents(work.store)
        work.store.rename(folder / "reference")
        kept.write_text(json.dumps(found))
    load_modules(log.with_suffix(".modules"))
    expected: dict[str, str] = json.loads(kept.read_text())
    return expected


def finished(folder: Path) -> None:
    """Put a copy of the reference's store where the tries run."""
    shutil.rmtree(folder / STORE, ignore_errors=True)
    shutil.copytree(folder / "reference", folder / STORE, ignore=shutil.ignore_patterns("*.lock", "*.owner"))


def load_modules(listed: Path) -> None:
    """Import what an earlier run imported, so that the processes of later runs need not, and may not be able to."""
    for name in listed.read_text().split():
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def contents(store: Path) -> dict[str, str]:
    """Path in the store -> hash of each file of each artifact, without times and energies."""
    found = {}
    for path in sorted(store.rglob("*")):
        name = path.relative_to(store)
        if name.parts[0] == "runs" or not path.is_file() or _is_leftover(name):
            continue
        found[str(name)] = _hash(path)
    return found


def unlisted(store: Path) -> list[str]:
    """Files in finished artifacts that their records do not list: somebody wrote there afterwards."""
    found = []
    for record in sorted(store.glob("*/*/artifact.json")):
        if not record.parent.suffix:
            listed = {record, *(record.parent / name for name in json.loads(record.read_text())["files"])}
            found += [str(path) for path in record.parent.rglob("*") if path.is_file() and path not in listed]
    return found


def leftovers(store: Path) -> list[str]:
    """Temporary and partial files and folders in the store."""
    return sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.suffix in (".partial", ".tmp"))


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What is missing, extra or different."""
    names = sorted(expected.keys() | found.keys())
    return [name for name in names if expected.get(name) != found.get(name)]


def assets_in_order(store: Path) -> list[tuple[str, float]]:
    """Asset and seconds of each artifact of a store, in the order in which they were finished."""
    records = sorted(store.glob("*/*/artifact.json"), key=lambda path: path.stat().st_mtime_ns)
    return [(path.parents[1].name, json.loads(path.read_text())["wall_seconds"]) for path in records]


def made(store: Path, log: Path) -> dict[str, str]:
    """Path -> hash of the files of the artifacts that a run made or found."""
    run_id = json.loads(log.with_suffix(".run").read_text())["run_id"]
    records = [json.loads(path.read_text()) for path in (store / "runs" / run_id).glob("*.json")]
    folders = {f"{record['asset']}/{record['fingerprint']}/" for record in records}
    return {name: value for name, value in contents(store).items() if name.startswith(tuple(folders))}


def wait_for(condition: Any, *, seconds: float, process: int) -> bool:
    """Whether a condition came true before a process ended (then it is reaped) or the time was over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.0005)
    return False


def _is_leftover(name: Path) -> bool:
    marks = (".lock", ".owner", ".partial", ".tmp", ".damaged")
    return any(mark in part for part in name.parts for mark in marks)


def _hash(path: Path) -> str:
    if path.name in NAMES_TIMES:
        return "not compared"
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        values = [_without_times(json.loads(line)) for line in _documents(path.suffix, content)]
        content = json.dumps(values).encode()
    return hashlib.sha256(content).hexdigest()


def _documents(suffix: str, content: bytes) -> list[bytes]:
    return content.splitlines() if suffix == ".jsonl" else [content]


def _without_times(value: Any) -> Any:
    """JSON without the fields of `TIMED`, and without hashes of files that have such."""
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {name: item for name, item in value.items() if not TIMED.search(name) or name.endswith(".parquet")}
    return {
        name: None if name.rpartition("/")[2] in (*NAMES_TIMES, *_HAVE_TIMES) else _without_times(item)
        for name, item in kept.items()
    }


_HAVE_TIMES = ("run.json", "curve.jsonl", "figures.json", "summary.json")
