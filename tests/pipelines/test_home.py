"""DAGSTER_HOME: prepared once, a limit for the GPU, and runs without a process end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest

from pipelines.definitions import defs
from pipelines.home import GPU, HomeError, prepare
from pipelines.sensors.dead_runs import dead_runs_sensor, end_dead_runs
from pipelines.store.files.processes import HOST_TAG, start_of

JOB = """
import sys, time
import dagster as dg

@dg.op
def waits(context):
    # As the executor of a step in the pool `gpu` does.
    context.instance.event_log_storage.claim_concurrency_slot("gpu", context.run_id, "waits")
    open(sys.argv[2], "w").close()
    time.sleep(600)

@dg.job
def waiting():
    waits()

with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    waiting.execute_in_process(instance=instance)
"""


def killed_run(home: Path, folder: Path) -> None:
    """Begin a run that holds the GPU's slot, and kill it."""
    begun = folder / "begun"
    process = subprocess.Popen([sys.executable, "-c", JOB, str(home), str(begun)])
    end = time.monotonic() + 120
    while not begun.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_the_gpu_is_limited_from_the_start_and_a_limit_that_was_set_stays(tmp_path: Path) -> None:
    prepare(tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.event_log_storage.get_concurrency_info(GPU).slot_count == 1
        instance.event_log_storage.set_concurrency_slots(GPU, 2)
    prepare(tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.event_log_storage.get_concurrency_info(GPU).slot_count == 2


def test_a_killed_run_is_failed_and_frees_its_slot(tmp_path: Path) -> None:
    home = tmp_path / "home"
    prepare(home)
    killed_run(home, tmp_path)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.STARTED
        assert instance.event_log_storage.get_concurrency_info(GPU).active_slot_count == 1
    assert prepare(home) == [run.run_id]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
        assert instance.event_log_storage.get_concurrency_info(GPU).active_slot_count == 0
    assert prepare(home) == []


def started(instance: dg.DagsterInstance, pid: int, **tags: str) -> str:
    """A run that has begun in a process."""

    @dg.job
    def nothing() -> None: ...

    run = instance.create_run_for_job(nothing, tags=tags, status=dg.DagsterRunStatus.STARTED)
    data = dg._core.events.EngineEventData(metadata={"pid": dg.MetadataValue.text(str(pid))})
    instance.report_engine_event("begun", run, data)
    return run.run_id


def test_a_run_whose_step_still_computes_is_not_dead() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        gone = 2**22 + 1
        run = started(instance, gone, **{HOST_TAG: os.uname().nodename})
        instance.add_run_tags(run, {"hydralora/process-hydralora_adapter": f"{os.getpid()} {time.time()}"})
        assert end_dead_runs(instance) == []
        instance.add_run_tags(run, {"hydralora/process-hydralora_adapter": f"{gone} {time.time()}"})
        assert end_dead_runs(instance) == [run]


def test_a_clock_that_was_set_ends_no_living_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a jump, the time at which a process began seems later than the time at which it was seen."""
    monkeypatch.setattr(psutil.Process, "create_time", lambda _process: time.time() + 3600)
    with dg.DagsterInstance.ephemeral() as instance:
        run = started(instance, 2**22 + 1, **{HOST_TAG: os.uname().nodename})
        tag, now = "hydralora/process-hydralora_adapter", time.time()
        instance.add_run_tags(run, {tag: f"{os.getpid()} {now} {start_of(os.getpid())}"})
        assert end_dead_runs(instance) == []
        instance.add_run_tags(
            run, {tag: f"{os.getpid()} {now} {start_of(os.getppid())}"}
        )  # a younger process has the id
        assert end_dead_runs(instance) == [run]


def test_a_step_ends_with_the_run_that_started_it(tmp_path: Path) -> None:
    """The process of a step is a child that `multiprocessing` starts, as Dagster's executor does."""
    script, begun = tmp_path / "parent.py", tmp_path / "begun"
    script.write_text(
        "import multiprocessing, os, sys, time\n"
        "from pipelines.store.files.processes import end_with_parent\n"
        "def step(path):\n"
        "    end_with_parent()\n"
        "    open(path + '.tmp', 'w').write(str(os.getpid()))\n"
        "    os.rename(path + '.tmp', path)\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.get_context('spawn').Process(target=step, args=(sys.argv[1],)).start()\n"
        "    time.sleep(600)\n"
    )
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen([sys.executable, script, begun], env={**os.environ, "PYTHONPATH": root})
    end = time.monotonic() + 120
    while not begun.exists():
        assert parent.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    step = psutil.Process(int(begun.read_text()))
    parent.kill()
    parent.wait()
    step.wait(timeout=30)


def test_runs_that_live_or_that_another_host_began_stay() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        started(instance, os.getpid(), **{HOST_TAG: os.uname().nodename})
        elsewhere = started(instance, 2**22 + 1, **{HOST_TAG: "elsewhere"})
        assert end_dead_runs(instance) == []
        assert end_dead_runs(instance, any_host=True) == [elsewhere]


def test_the_code_location_runs_the_sensor_by_itself() -> None:
    [sensor] = [sensor for sensor in defs.sensors or () if sensor.name == dead_runs_sensor.name]
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    with dg.DagsterInstance.ephemeral() as instance:
        dead = started(instance, 2**22 + 1, **{HOST_TAG: os.uname().nodename})
        said = dead_runs_sensor(dg.build_sensor_context(instance))
        assert dead in said.skip_message


@pytest.mark.parametrize(
    ("file", "content"),
    [("dagster.yaml", "retention: ["), ("dagster.yaml", "unknown: 1"), ("history/runs.db", "no database" * 500)],
)
def test_what_dagster_cannot_read_is_one_sentence(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(HomeError, match="expected settings and storage of Dagster"):
        prepare(tmp_path)
