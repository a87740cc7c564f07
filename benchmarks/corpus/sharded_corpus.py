"""The corpus stage in shards: CPU and memory on one process, on several, and on three simulated Ray nodes.

    python benchmarks/corpus/sharded_corpus.py --documents 1000000

Writes documents once to the temporary folder (see `resampled_corpus`). Each engine runs in a process of its own, after
a small run that compiles. Writes results/sharded_corpus.json. For runs side by side, `--build` writes the documents,
`--engine NAME` measures one engine and prints its figures, and `--add FILES` adds these to the results.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

from resampled_corpus import SEED, build

RESULT = Path(__file__).parents[1] / "results" / "sharded_corpus.json"
ENGINES = {"serial": 1, "processes": 2, "ray": 3}
"""Name -> workers; those of Ray are nodes of one CPU each."""


def measure(name: str, folder: Path, out: Path) -> dict[str, Any]:
    from analysis.corpus.cleaning import CleanConfig
    from analysis.engine.processes import ProcessEngine
    from analysis.engine.tasks import SerialEngine
    from analysis.shards.corpus import ShardedConfig, sharded_corpus
    from analysis.sources import FilesSource
    from pipelines.engine.ray_engine import RayEngine

    few, every = (FilesSource((str(folder / pattern),)) for pattern in ("00000.parquet", "*.parquet"))
    cluster = simulated_cluster() if name == "ray" else None
    engine: Any = {"serial": SerialEngine, "ray": RayEngine}.get(name, lambda: ProcessEngine(ENGINES[name]))()
    laps: list[dict[str, Any]] = []

    def say(text: str) -> None:
        """Note the beginning of a stage, also for a run that does not end."""
        at = {"stage": text.split(":")[0], "wall": time.perf_counter() - start, "cpu": sum(cpu_seconds(name).values())}
        laps.append(at | {"driver_mb": megabytes(os.getpid(), "VmRSS"), "driver_peak_mb": megabytes(os.getpid())})
        print(text, json.dumps(laps[-1]), file=sys.stderr, flush=True)

    config = ShardedConfig(CleanConfig(test_fraction=0.01), shard_bytes=16_000_000)
    small = ShardedConfig(CleanConfig(test_fraction=0.01), shard_bytes=4_000_000, max_clusters=3)
    start = time.perf_counter()
    try:
        sharded_corpus({"web": few}, str(out / "few"), engine, small)
        before, start = cpu_seconds(name), time.perf_counter()
        result = sharded_corpus({"web": every}, str(out / "every"), engine, config, log=say)
        wall = time.perf_counter() - start
        spent = {kind: seconds - before[kind] for kind, seconds in cpu_seconds(name).items()}
        say("end")
        workers = [megabytes(pid) for pid in worker_pids(name)]
    finally:
        if cluster is not None:
            stop(cluster)
    written = {
        stage.name: sum(path.stat().st_size for path in stage.iterdir()) / 1e6
        for stage in (out / "every").iterdir()
        if stage.is_dir()
    }
    return {
        "engine": name,
        "documents": result["data_card"]["n_read"],
        "kept": result["data_card"]["n_kept"],
        "shards": len(result["documents"]),
        "num_clusters": result["choice"]["num_clusters"],
        "cpu_seconds": spent,
        "wall_seconds": wall,
        "stages": {
            begin["stage"]: {
                "wall_seconds": end["wall"] - begin["wall"],
                "cpu_seconds": end["cpu"] - begin["cpu"],
                "driver_mb": end["driver_mb"],
                "driver_peak_mb": end["driver_peak_mb"],
            }
            for begin, end in pairwise(laps)
        },
        "driver_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "worker_peak_mb": workers,
        "digest": digest_of(out / "every"),
        "written_mb": sum(written.values()),
        "written_mb_by_stage": written,
        "read_mb": sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
        "load": os.getloadavg()[0],
        "versions": {n: metadata.version(n) for n in ("numba", "numpy", "polars", "pyarrow")},
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
    }


def simulated_cluster(nodes: int = 3) -> Any:
    """A head without CPUs and nodes of one CPU, all on this machine, connected to this process."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_MEMORY_MONITOR": "1",
        "RAY_memory_monitor_refresh_ms": "0",
    }
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    return cluster


def stop(cluster: Any) -> None:
    import ray

    ray.shutdown()
    cluster.shutdown()


def worker_pids(name: str) -> list[int]:
    start = "ray::" if name == "ray" else "-c from multiprocessing.spawn"
    return [pid for pid, command in _descendants().items() if start in command]


def cpu_seconds(name: str) -> dict[str, float]:
    """CPU seconds so far of this process, of the workers, and of the engine's other processes."""
    import psutil

    workers = worker_pids(name)
    spent = {pid: sum(psutil.Process(pid).cpu_times()[:2]) for pid in _descendants()}
    of_workers = sum(seconds for pid, seconds in spent.items() if pid in workers)
    return {"driver": time.process_time(), "workers": of_workers, "others": sum(spent.values()) - of_workers}


def _descendants() -> dict[int, str]:
    """Process id -> command, of all processes that this one started, and those that they started."""
    import psutil

    return {process.pid: " ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)}


def megabytes(pid: int, field: str = "VmHWM") -> float:
    """Memory of a process: its peak (`VmHWM`), or what it has now (`VmRSS`)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def digest_of(out: Path) -> str:
    """Of the names of all files, and of the markers: they hold the digest of each file that a task wrote.

    Other files have the digest of their content as their name.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in out.rglob("*") if path.is_file() and path.name != "corpus.json"):
        digest.update(path.relative_to(out).as_posix().encode())
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for the documents and files")
    parser.add_argument("--build", type=int, metavar="PROCESSES", help="only write the documents")
    parser.add_argument("--engine", choices=ENGINES, help="measure one engine in this process")
    parser.add_argument("--add", type=Path, nargs="+", help="files with printed figures to add to the results")
    given = parser.parse_args()
    folder = given.folder / f"hydralora-shards-{given.documents}-{SEED}"
    if given.add:
        for path in given.add:
            add(json.loads(path.read_text().splitlines()[-1]))
        return
    if given.engine:
        out = folder.with_name(f"{folder.name}-{given.engine.replace(' ', '-')}")
        try:
            print(json.dumps(measure(given.engine, folder, out)))
        finally:
            shutil.rmtree(out, ignore_errors=True)
        return
    build(folder, given.documents, given.build or os.cpu_count() or 1)
    if given.build:
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    arguments = ["--documents", str(given.documents), "--folder", str(given.folder)]
    for engine in ENGINES:
        command = [sys.executable, __file__, "--engine", engine, *arguments]
        printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        add(json.loads(printed.splitlines()[-1]))


def add(run: dict[str, Any]) -> None:
    """Put a run into the results, in place of one with the same documents and engine on a like machine."""
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": []}

    def name(one: dict[str, Any]) -> tuple[int, int, int]:
        return one["hardware"]["cores"], one["documents"], list(ENGINES).index(one["engine"])

    found["runs"] = sorted([*(other for other in found["runs"] if name(other) != name(run)), run], key=name)
    RESULT.write_text(json.dumps(found | {"seed": SEED}, indent=1) + "\n")
    print(run["engine"], run["documents"], run["cpu_seconds"])


if __name__ == "__main__":
    main()
