"""The corpus stage in shards: CPU and memory on one process, two processes and three simulated Ray nodes.

    python benchmarks/sharded_corpus.py --documents 1000000

Writes documents once to the temporary folder: real corpora (`HYDRALORA_CORPORA`, default `../shared/corpora`)
resampled, a tenth of the words of each replaced. Each engine runs in a process of its own, after a small run that
compiles. Writes results/sharded_corpus.json.
"""

import argparse
import hashlib
import json
import os
import platform
import random
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

from perturbed_text import perturbed

RESULT = Path(__file__).parent / "results" / "sharded_corpus.json"
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", Path(__file__).resolve().parents[2] / "shared" / "corpora"))
NAMES = ("dolly15k", "flan10", "gsm8k", "legalbench", "mbxp", "medquad")
ENGINES = ("serial", "processes", "ray")
ROWS_OF_FILE = 50_000
SEED = 0


def build_corpus(folder: Path, n_documents: int) -> None:
    import polars as pl

    prompt = pl.concat_str("instruction", "input", separator="\n", ignore_nulls=True)
    real = [
        (name, *row)
        for name in NAMES
        for row in pl.read_parquet(CORPORA / f"{name}_train.parquet").select(prompt, "output").iter_rows()
    ]
    words = [word for _, _, completion in real[::50] for word in completion.split()]
    rng = random.Random(SEED)

    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    for first in range(0, n_documents, ROWS_OF_FILE):
        rows = []
        for _ in range(min(ROWS_OF_FILE, n_documents - first)):
            task, *texts = real[int(rng.random() * len(real))]
            rows.append((task, *(perturbed(text, words, rng) for text in texts)))
        table = pl.DataFrame(rows, ["task", "prompt", "completion"], orient="row")
        table.write_parquet(partial / f"{first // ROWS_OF_FILE:05}.parquet", row_group_size=10_000)
    partial.rename(folder)


def measure(name: str, folder: Path, out: Path) -> dict[str, Any]:
    from analysis.corpus.cleaning import CleanConfig
    from analysis.engine.processes import ProcessEngine
    from analysis.engine.tasks import SerialEngine
    from analysis.shards.corpus import ShardedConfig, sharded_corpus
    from analysis.sources import FilesSource
    from pipelines.engine.ray_engine import RayEngine

    few, every = (FilesSource((str(folder / pattern),)) for pattern in ("00000.parquet", "*.parquet"))
    cluster = simulated_cluster() if name == "ray" else None
    engine: Any = {"serial": SerialEngine, "processes": lambda: ProcessEngine(2), "ray": RayEngine}[name]()
    laps: list[tuple[str, float]] = []

    def say(text: str) -> None:
        laps.append((text.split(":")[0], time.perf_counter()))

    config = ShardedConfig(CleanConfig(test_fraction=0.01), shard_bytes=16_000_000)
    small = ShardedConfig(CleanConfig(test_fraction=0.01), shard_bytes=4_000_000, max_clusters=3)
    try:
        sharded_corpus({"web": few}, str(out / "few"), engine, small)
        before, start = cpu_seconds(engine, name), time.perf_counter()
        result = sharded_corpus({"web": every}, str(out / "every"), engine, config, log=say)
        wall = time.perf_counter() - start
        spent = {kind: seconds - before[kind] for kind, seconds in cpu_seconds(engine, name).items()}
        laps.append(("end", time.perf_counter()))
        workers = [peak_megabytes(pid) for pid in worker_pids(name)]
    finally:
        if cluster is not None:
            stop(cluster)
    return {
        "engine": name,
        "documents": result["data_card"]["n_read"],
        "kept": result["data_card"]["n_kept"],
        "shards": len(result["documents"]),
        "num_clusters": result["choice"]["num_clusters"],
        "cpu_seconds": spent,
        "wall_seconds": wall,
        "stage_wall_seconds": {stage: end - begin for (stage, begin), (_, end) in pairwise(laps)},
        "driver_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "worker_peak_mb": workers,
        "digest": digest_of(out / "every"),
        "written_mb": sum(path.stat().st_size for path in (out / "every").rglob("*") if path.is_file()) / 1e6,
        "load": os.getloadavg()[0],
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
    import psutil

    if name == "ray":
        return [
            p.pid
            for p in psutil.process_iter(["cmdline"])
            if (p.info["cmdline"] or [""])[0].startswith(("ray::_perform", "ray::IDLE"))
        ]
    return [p.pid for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]


def cpu_seconds(engine: Any, name: str) -> dict[str, float]:
    """CPU seconds so far of this process, of the workers, and of Ray's own processes."""
    import psutil

    def spent(pids: list[int]) -> float:
        return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)

    others = [
        p.pid for p in psutil.process_iter(["name"]) if name == "ray" and p.info["name"] in ("raylet", "gcs_server")
    ]
    return {"driver": time.process_time(), "workers": spent(worker_pids(name)), "ray": spent(others)}


def peak_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def digest_of(out: Path) -> str:
    """Of the names and bytes of all files but the list of places."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in out.rglob("*") if path.is_file() and path.name != "corpus.json"):
        digest.update(path.relative_to(out).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--engine", choices=ENGINES, help="measure one engine in this process")
    given = parser.parse_args()
    folder = Path(tempfile.gettempdir()) / f"hydralora-shards-{given.documents}-{SEED}"
    out = folder.with_name(f"{folder.name}-{given.engine}")
    if given.engine:
        try:
            print(json.dumps(measure(given.engine, folder, out)))
        finally:
            shutil.rmtree(out, ignore_errors=True)
        return
    if not folder.exists():
        build_corpus(folder, given.documents)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": []}
    for engine in ENGINES:
        command = [sys.executable, __file__, "--engine", engine, "--documents", str(given.documents)]
        printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        run = json.loads(printed.splitlines()[-1])
        same = lambda other, run=run: (other["engine"], other["documents"]) == (run["engine"], run["documents"])  # noqa: E731
        found["runs"] = [other for other in found["runs"] if not same(other)] + [run]
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        found |= {"megabytes": {**found.get("megabytes", {}), str(given.documents): megabytes}, "seed": SEED}
        found["versions"] = {n: metadata.version(n) for n in ("numba", "numpy", "polars", "pyarrow", "ray")}
        found["hardware"] = {"machine": platform.machine(), "cores": os.cpu_count()}
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
        print(run)


if __name__ == "__main__":
    main()
