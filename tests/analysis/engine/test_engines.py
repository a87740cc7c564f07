"""Engines: results in any order, errors with the task's name, and processes that die."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from analysis.engine.files import matching, parquet_bytes, read_table, write_bytes
from analysis.engine.processes import ProcessEngine
from analysis.engine.stages import FAN_IN, Output, Stages
from analysis.engine.tasks import SerialEngine, ShardError, Task

HERE = "tests.analysis.engine.test_engines"


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    raise ValueError(f"no {number}")


def die_once(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(9)
    return "alive"


def die() -> None:
    os._exit(9)


def wait_long(marker: str) -> None:
    Path(f"{marker}.tmp").write_text(str(os.getpid()))
    Path(f"{marker}.tmp").rename(marker)
    time.sleep(600)


def joined(files: list[dict[str, Any]]) -> Output:
    texts = [Path(file["url"]).read_text() for file in files]
    return Output(files={"txt": f"({''.join(texts)})".encode()})


def tasks(function: str, *arguments: dict[str, Any]) -> list[Task]:
    return [Task(f"{HERE}:{function}", given, f"file-{i}") for i, given in enumerate(arguments)]


@pytest.mark.parametrize("engine", [SerialEngine(), ProcessEngine(2)], ids=["serial", "processes"])
def test_results_and_errors(engine: Any) -> None:
    numbers = [{"number": n} for n in range(7)]
    assert dict(engine.run(tasks("square", *numbers))) == {n: n * n for n in range(7)}
    with pytest.raises(ShardError, match="file-0: no 4"):
        list(engine.run(tasks("refuse", {"number": 4})))


def test_task_whose_process_dies_runs_again(tmp_path: Path) -> None:
    given = tasks("die_once", {"marker": str(tmp_path / "a")}, {"marker": str(tmp_path / "b")})
    assert dict(ProcessEngine(2).run(given)) == {0: "alive", 1: "alive"}


def test_task_that_always_kills_its_process_is_named() -> None:
    with pytest.raises(ShardError, match="file-0: the process of this task died 4 times"):
        list(ProcessEngine(1).run(tasks("die", {})))


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    script, marker = tmp_path / "driver.py", tmp_path / "worker"
    script.write_text(
        f"from {HERE} import ProcessEngine, tasks\n"
        f"if __name__ == '__main__':\n"
        f"    list(ProcessEngine(1).run(tasks('wait_long', {{'marker': {str(marker)!r}}})))\n"
    )
    root = str(Path(__file__).parents[3])
    with subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": root}) as driver:
        while not marker.exists():
            assert driver.poll() is None
            time.sleep(0.05)
        worker = psutil.Process(int(marker.read_text()))
        driver.kill()
    worker.wait(timeout=30)


def test_reduction_is_a_tree_of_fixed_shape(tmp_path: Path) -> None:
    stages = Stages(SerialEngine(), str(tmp_path), "1")
    files = [stages.put("leaf", "txt", f"{number};".encode()) for number in range(2 * FAN_IN + 1)]
    root = stages.reduce("all", f"{HERE}:joined", files, "txt")
    groups = [range(FAN_IN), range(FAN_IN, 2 * FAN_IN), [2 * FAN_IN]]
    expected = "".join(f"({''.join(f'{n};' for n in group)})" for group in groups)
    assert Path(root["url"]).read_text() == f"({expected})"


def test_address_follows_content_not_place(tmp_path: Path) -> None:
    stages = Stages(SerialEngine(), str(tmp_path / "a"), "1")
    other = Stages(SerialEngine(), str(tmp_path / "b"), "1")
    found = [s.reduce("one", f"{HERE}:joined", [s.put("leaf", "txt", b"x")], "txt") for s in (stages, other)]
    assert Path(found[0]["url"]).name == Path(found[1]["url"]).name


def test_empty_row_groups_keep_their_place(tmp_path: Path) -> None:
    table = pl.DataFrame({"number": [1, 2, 3]})
    url = str(tmp_path / "t.parquet")
    write_bytes(url, parquet_bytes([table[:1], table[:0], table[1:]]))
    assert [read_table(url, group=group)["number"].to_list() for group in range(3)] == [[1], [], [2, 3]]


def test_file_with_a_star_in_its_name_is_no_glob(tmp_path: Path) -> None:
    for name in ("a*.csv", "ab.csv"):
        (tmp_path / name).write_text("x")
    assert matching(str(tmp_path / "a*.csv")) == [str(tmp_path / "a*.csv")]
    assert len(matching(f"file://{tmp_path}/*.csv")) == 2
