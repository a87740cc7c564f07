"""Kills nodes of a simulated Ray cluster during a corpus in shards, and then the head; compares all bytes.

    python benchmarks/corpus/ray_faults.py

A node of three dies in each stage, and is replaced. Then a file is broken, and the error must name it. Last, the driver
and all of Ray are killed in the middle, and a second run goes on. Writes results/ray_faults.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sharded_corpus import simulated_cluster, stop

from analysis.engine.tasks import SerialEngine, ShardError, Task, function_of
from analysis.shards.corpus import sharded_corpus
from pipelines.engine.ray_engine import RayEngine
from tests.analysis.shards.small_shards import CONFIG, content_of, write_corpus

RESULT = Path(__file__).parents[1] / "results" / "ray_faults.json"
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


class Counting:
    """An engine that notes each start of a task in a folder."""

    def __init__(self, folder: Path) -> None:
        self.inner, self.folder = RayEngine(), folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def n_workers(self) -> int:
        return self.inner.n_workers

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        noted = [
            Task(
                "ray_faults:noted",
                {"function": t.function, "arguments": t.arguments, "folder": str(self.folder)},
                t.label,
            )
            for t in tasks
        ]
        yield from self.inner.run(noted)


def noted(function: str, arguments: dict[str, Any], folder: str) -> Any:
    with (Path(folder) / f"{os.getpid()}").open("a") as file:
        file.write(arguments["target"] + "\n")
    time.sleep(0.1)  # so that a kill hits a task
    return function_of(function)(**arguments)


def starts(folder: Path) -> list[str]:
    return [line for path in folder.iterdir() for line in path.read_text().splitlines()]


def kill_nodes(folder: Path, sources: Any, evaluation: Any, expected: dict[str, bytes]) -> dict[str, Any]:
    # A dead node is noticed after some seconds in place of a quarter of a minute.
    os.environ |= {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
    cluster = simulated_cluster()
    killed: list[str] = []
    timers: list[threading.Timer] = []

    def kill(stage: str) -> None:
        victim = sorted(cluster.worker_nodes, key=lambda node: node.node_id)[0]
        cluster.remove_node(victim, allow_graceful=False)
        killed.append(stage)

    def say(text: str) -> None:
        replace()
        print(text, len(killed), flush=True)
        stage, _, rest = text.partition(": ")
        if not rest.startswith("0 "):
            timers.append(threading.Timer(0.15, kill, (stage,)))
            timers[-1].start()

    def replace() -> None:
        """Start a node for the one that died; only the main thread can."""
        while timers:
            timers.pop().join()
            cluster.add_node(**NODE)

    engine, out = Counting(folder / "starts"), folder / "nodes"
    try:
        result = sharded_corpus(sources, str(out), engine, CONFIG, evaluation=evaluation, log=say)
        replace()
        started = len(starts(folder / "starts"))
        error = error_of_broken_file(folder / "broken", engine)
    finally:
        stop(cluster)
    tasks = sum(ran for _, ran in result["stages"].values())
    same = content_of(out) == expected
    return {"killed": killed, "same_bytes": same, "tasks": tasks, "started": started, "broken_file": error}


def error_of_broken_file(folder: Path, engine: Counting) -> str:
    sources, _ = write_corpus(folder)
    broken = folder / "harbour" / "0.jsonl"
    broken.write_text(broken.read_text() + '{"prompt": "cut of')
    try:
        sharded_corpus(sources, str(folder / "out"), engine, CONFIG)
    except ShardError as error:
        return str(error).replace(f"{folder}/", "")
    raise AssertionError("a broken file was read")


def kill_head(folder: Path) -> dict[str, Any]:
    """Kill the driver and all processes of its cluster during a stage; then run again."""
    command = [sys.executable, __file__, "--driver", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("labels" if folder.name == "late" else "bands:"):
            break
    time.sleep(0.3)
    import psutil

    for victim in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        victim.kill()
    process.wait()
    time.sleep(1)
    again = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    counts = json.loads(again.splitlines()[-1])
    return {
        "tasks": sum(t for t, _ in counts.values()),
        "ran": sum(r for _, r in counts.values()),
    }


def drive(folder: Path) -> None:
    sources, evaluation = json.loads((folder / "sources.json").read_text())
    cluster = simulated_cluster()
    try:
        from analysis.sources import FilesSource

        given = [{n: FilesSource((path,)) for n, path in side.items()} for side in (sources, evaluation)]
        result = sharded_corpus(
            given[0], str(folder / "out"), Counting(folder / "starts"), CONFIG, evaluation=given[1],
            log=lambda text: print(text, flush=True),
        )  # fmt: skip
    finally:
        stop(cluster)
    print(json.dumps(result["stages"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", type=Path, help="internal: the run that is killed")
    parser.add_argument("--only", choices=("nodes", "head"), help="one of the two parts")
    given = parser.parse_args()
    if given.driver:
        drive(given.driver)
        return
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        sources, evaluation = write_corpus(folder / "in")
        sharded_corpus(sources, str(folder / "one"), SerialEngine(), CONFIG, evaluation=evaluation)
        expected = content_of(folder / "one")
        result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        result["files"] = len(expected)
        if given.only != "head":
            result["nodes"] = kill_nodes(folder, sources, evaluation, expected)
            write(result)
        for when in ("early", "late") if given.only != "nodes" else ():
            own = folder / when
            own.mkdir()
            places = [{n: s.paths[0] for n, s in side.items()} for side in (sources, evaluation)]
            (own / "sources.json").write_text(json.dumps(places))
            result.setdefault("head", {})[when] = kill_head(own) | {"same_bytes": content_of(own / "out") == expected}
            write(result)


def write(result: dict[str, Any]) -> None:
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
