"""Work in processes that stay: all of it is done or named, whatever happens to one piece."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import dagster as dg
import pytest

from pipelines.store.artifacts import Artifact
from pipelines.study.running.worker_pool import build_all
from pipelines.training.adapters import Log
from pipelines.training.launcher import Launcher


def succeed(folder: Path, name: str, log: Log) -> Artifact:
    log(f"{name} in {os.getpid()}")
    (folder / name).write_text(str(os.getpid()))
    return Artifact("work", name, folder)


def fail(log: Log) -> Artifact:
    raise dg.Failure("out of luck", allow_retries=False)


def die(log: Log) -> Artifact:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.parametrize("parallel", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_one_failure_leaves_the_others_finished(tmp_path: Path, parallel: int) -> None:
    work = {
        "first": partial(succeed, tmp_path, "first"),
        "second": fail,
        "third": partial(succeed, tmp_path, "third"),
        "fourth": partial(succeed, tmp_path, "fourth"),
    }
    lines: list[str] = []
    with pytest.raises(dg.Failure, match=r"1 of 4 failed\.\nsecond: out of luck"):
        build_all(work, Launcher(parallel=parallel), lines.append, lambda artifact: artifact.fingerprint)
    processes = {(tmp_path / name).read_text() for name in ("first", "third", "fourth")}
    assert (str(os.getpid()) in processes) == (parallel == 1)
    assert len(processes) <= parallel
    assert lines[0] == f"4 to do, {parallel} at a time"
    assert any(line.endswith("third: third") for line in lines)
    assert ("1 failed and are retried once, one at a time" in lines) == (parallel > 1)


@pytest.mark.slow
def test_a_process_that_is_killed_is_named_and_takes_no_other_with_it(tmp_path: Path) -> None:
    work = {"first": die, "second": partial(succeed, tmp_path, "second")}
    lines: list[str] = []
    with pytest.raises(dg.Failure, match=r"1 of 2 failed\.\nfirst: A process in the process pool was terminated"):
        build_all(work, Launcher(parallel=2), lines.append, lambda artifact: artifact.fingerprint)
    assert (tmp_path / "second").exists()
    assert any("retried once" in line for line in lines)


def fail_beside_others(folder: Path, log: Log) -> Artifact:
    """As if a first attempt had found no memory left."""
    first = not (folder / "tried").exists()
    (folder / "tried").touch()
    if first:
        raise RuntimeError("Out of memory")
    return Artifact("work", "done", folder)


@pytest.mark.slow
def test_what_fails_beside_others_is_tried_alone(tmp_path: Path) -> None:
    work = {"first": partial(fail_beside_others, tmp_path), "second": partial(succeed, tmp_path, "second")}
    lines: list[str] = []
    build_all(work, Launcher(parallel=2), lines.append, lambda artifact: artifact.fingerprint)
    assert "1 of 1: first: done" in lines


def sleep(folder: Path, name: str, log: Log) -> Artifact:
    (folder / name).write_text(str(os.getpid()))
    time.sleep(600)
    raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGINT])
def test_nobody_is_left_behind(tmp_path: Path, with_signal: signal.Signals) -> None:
    code = f"""
import signal
from functools import partial
from pathlib import Path
from pipelines.training.launcher import Launcher
from pipelines.study.running.worker_pool import build_all
from tests.pipelines.study.running.test_worker_pool import sleep
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
    work = {{name: partial(sleep, Path({str(tmp_path)!r}), name) for name in ("first", "second")}}
    build_all(work, Launcher(parallel=2), print, str)
"""
    script = tmp_path / "job.py"
    script.write_text(code)
    root = Path(__file__).parents[4]
    job = subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": str(root)}, cwd=root)
    children = [tmp_path / "first", tmp_path / "second"]
    wait_until(lambda: all(child.exists() and child.read_text() for child in children))
    job.send_signal(with_signal)
    job.wait(timeout=60)
    wait_until(lambda: not any(Path(f"/proc/{child.read_text()}").exists() for child in children))


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_several_processes_for_one_run_are_refused() -> None:
    with pytest.raises(dg.Failure, match="processes_per_training of 1"):
        build_all({"first": fail}, Launcher(processes_per_training=2), print, str)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_runs_are_tasks_of_a_ray_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from pipelines.engine.ray_engine import connected

    work = {"first": partial(succeed, tmp_path, "first"), "second": fail, "third": partial(succeed, tmp_path, "third")}
    lines: list[str] = []
    failure = pytest.raises(dg.Failure, match=r"1 of 3 failed\.\nsecond: out of luck")
    with connected(None, num_cpus=2, num_gpus=0, object_store_memory=80_000_000), failure:
        build_all(work, Launcher(engine="ray"), lines.append, lambda artifact: artifact.fingerprint)
    assert str(os.getpid()) not in {(tmp_path / name).read_text() for name in ("first", "third")}
    assert lines[0] == "3 to do on the Ray cluster"
    assert any(line.endswith("third: third") for line in lines)
