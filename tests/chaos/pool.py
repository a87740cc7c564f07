"""The pool `gpu` with the shipped settings: real trainings of two runs never overlap, and a killed run frees its slot.

Runs are started as a user starts them, with `dagster job execute` and under `dagster dev`.
"""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import yaml

from pipelines.store.files.processes import tagged_processes
from tests.chaos.job import run, setup
from tests.chaos.progress import Outcome, Try

GPU = "gpu"
STEPS = 10
PATIENCE = 900.0
DAGSTER = str(Path(sys.executable).with_name("dagster"))


def tries(folder: Path, short: bool) -> Iterator[Try]:
    """Long form only: each takes minutes, since every step is a process of its own."""
    for how in () if short else ("execute", "dev"):
        yield Try(how, partial(two_runs_of_which_one_is_killed, folder / f"pool-{how}", how))


def two_runs_of_which_one_is_killed(folder: Path, how: str) -> Outcome:
    """A run is killed in `hydralora_adapter`; two others, at once, wait for its slot and then take turns."""
    shutil.rmtree(folder, ignore_errors=True)
    configurations = [_configuration(folder, seed) for seed in (10, 20, 30)]
    home = folder / "dagster-home"
    _prepare(home)
    with dg.DagsterInstance.from_config(str(home)) as instance, _begun(how, folder, home) as begin:
        killed = begin(configurations[0])
        _wait(lambda: _in_training(instance, killed), "the training begins")
        seconds = _kill(instance, killed)
        others = [begin(configuration) for configuration in configurations[1:]]
        held = _pool(instance)
        if how == "execute":
            _wait(lambda: all(_status(instance, one) == "STARTED" for one in others), "the others start")
            _prepare(home)  # under `dagster dev`, the sensor `dead_runs` does it
        _wait(lambda: _status(instance, killed) == "FAILURE", "the killed run is reported failed")
        _wait(lambda: all(_status(instance, one) in ("SUCCESS", "FAILURE") for one in others), "the others end")
        spans = sorted(span for one in [killed, *others] for span in _spans(instance, one))
        return {
            "how": how,
            "seconds_until_the_killed_training_was_gone": seconds,
            "slots_held_by_the_killed_run": held,
            "killed": _status(instance, killed),
            "others": [_status(instance, one) for one in others],
            "steps_in_the_pool": [len(_spans(instance, one)) for one in others],
            "turns_changed": sum(one[2] != other[2] for one, other in itertools.pairwise(spans)),
            "overlaps": [
                f"{one[3]} of {one[2]} and {other[3]} of {other[2]}"
                for one, other in itertools.pairwise(spans)
                if other[0] < one[1]
            ],
            "slots_at_the_end": _pool(instance),
        }


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """By how the runs were started."""
    return {one["how"]: one for one in outcomes}


def _configuration(folder: Path, seed: int) -> Path:
    """A run of the job `train` on a finished corpus, with its own seed."""
    corpus = setup(folder, "corpus", folder / "store")
    log = folder / "corpus.log"
    if not log.exists():
        assert run(corpus, log) == 0, log.read_text()[-3000:]
    config = json.loads(json.dumps(setup(folder, "hydralora", folder / "store").config))
    # All of these are read from the run of the corpus.
    made = ("raw_documents", "corpus_documents", "cluster_sweep", "num_clusters", "expert_assignment")
    config["ops"] = {name: value for name, value in config["ops"].items() if name not in made}
    config["resources"]["store"]["config"]["from_run"] = json.loads(log.with_suffix(".run").read_text())["run_id"]
    config["resources"]["recipe"]["config"] |= {"seed": seed, "max_steps": STEPS}
    path = folder / f"train-{seed}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore"}


def _prepare(home: Path) -> None:
    subprocess.run([sys.executable, "-m", "pipelines.home"], env=_environment(home), check=True)


@contextmanager
def _begun(how: str, folder: Path, home: Path) -> Iterator[Callable[[Path], str]]:
    """A function that begins a run and returns its id; at the end of the block, all processes end."""
    processes: list[subprocess.Popen[bytes]] = []

    def call(name: str, *words: str) -> subprocess.Popen[bytes]:
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [DAGSTER, *words], env=_environment(home), stdout=log, stderr=log, start_new_session=True
            )
        processes.append(process)
        return process

    def begin(configuration: Path) -> str:
        run_id, name = str(uuid.uuid4()), configuration.stem
        verb = ("job", "execute", "--tags", json.dumps({"chaos": run_id}))
        if how == "dev":
            verb = ("job", "launch", "--tags", json.dumps({"chaos": run_id}))
        call(name, *verb, "-m", "pipelines.definitions", "-j", "train", "-c", str(configuration))
        return run_id

    try:
        if how == "dev":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            call("dev", "dev", "-m", "pipelines.definitions", "-h", "127.0.0.1", "-p", str(port))
        yield begin
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            process.wait(timeout=60)


def _run(instance: dg.DagsterInstance, tag: str) -> dg.DagsterRun | None:
    found = instance.get_runs(dg.RunsFilter(tags={"chaos": tag}), limit=1)
    return found[0] if found else None


def _status(instance: dg.DagsterInstance, tag: str) -> str:
    found = _run(instance, tag)
    return "none" if found is None else found.status.value


def _spans(instance: dg.DagsterInstance, tag: str) -> list[tuple[float, float, str, str]]:
    """Begin, end, run and step of each step in the pool."""
    found = _run(instance, tag)
    if found is None:
        return []
    ends = {"STEP_SUCCESS", "STEP_FAILURE"}
    pooled = {"hydralora_adapter", "component_adapters", "baseline_adapters"}
    pooled |= {"evaluation", "routing_analysis", "domain_exports"}
    begun: dict[str, float] = {}
    spans = []
    for entry in instance.all_logs(found.run_id):
        kind = entry.dagster_event.event_type_value if entry.dagster_event else ""
        step = entry.step_key or ""
        if step in pooled and kind == "STEP_START":
            begun[step] = entry.timestamp
        elif step in pooled and kind in ends:
            spans.append((begun[step], entry.timestamp, tag, step))
    return spans


def _in_training(instance: dg.DagsterInstance, tag: str) -> bool:
    found = _run(instance, tag)
    if found is None:
        return False
    logs = instance.all_logs(found.run_id, of_type={dg.DagsterEventType.STEP_START})
    return any(entry.step_key == "hydralora_adapter" and time.time() - entry.timestamp > 2 for entry in logs)


def _kill(instance: dg.DagsterInstance, tag: str) -> float:
    """SIGKILL to the run's own process; its step is told nothing. Returns the seconds until that was gone too."""
    found = _run(instance, tag)
    assert found is not None
    steps = [pid for pid, *_ in tagged_processes(found)]
    assert any(psutil.pid_exists(pid) for pid in steps)
    began = time.monotonic()
    for entry in instance.all_logs(found.run_id, of_type={dg.DagsterEventType.ENGINE_EVENT}):
        data = entry.dagster_event.engine_event_data if entry.dagster_event else None
        value = getattr(data.metadata.get("pid"), "value", None) if data else None
        if value is not None:
            try:
                os.kill(int(str(value)), signal.SIGKILL)
            except ProcessLookupError:
                continue
    _wait(lambda: not any(psutil.pid_exists(pid) for pid in steps), "the process of the training is gone")
    return round(time.monotonic() - began, 1)


def _pool(instance: dg.DagsterInstance) -> str:
    info = instance.event_log_storage.get_concurrency_info(GPU)
    return f"{info.active_slot_count} of {info.slot_count}"


def _wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE:.0f} s until {what}"
        time.sleep(0.5)
