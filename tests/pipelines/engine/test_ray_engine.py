"""A simulated Ray cluster of three nodes: the bytes of one machine, also when a node dies; errors name the file."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.engine.tasks import SerialEngine, ShardError
from analysis.shards.corpus import sharded_corpus
from pipelines.engine.ray_engine import RayEngine, connected
from tests.analysis.shards.small_shards import CONFIG, content_of, write_corpus

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ray = pytest.importorskip("ray")
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_MEMORY_MONITOR": "1",
        "RAY_memory_monitor_refresh_ms": "0",
    }
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    for _ in range(3):
        found.add_node(**NODE)
    try:
        with connected(found.address):
            yield found
    finally:
        found.shutdown()


def test_same_bytes_and_a_node_dies(cluster: Any, tmp_path: Path) -> None:
    sources, evaluation = write_corpus(tmp_path / "in")
    sharded_corpus(sources, str(tmp_path / "one"), SerialEngine(), CONFIG, evaluation=evaluation)

    def say(text: str) -> None:
        if text.startswith("bands"):
            victim = cluster.worker_nodes.copy().pop()
            threading.Timer(0.2, cluster.remove_node, (victim, False)).start()

    sharded_corpus(sources, str(tmp_path / "ray"), RayEngine(), CONFIG, evaluation=evaluation, log=say)
    assert content_of(tmp_path / "ray") == content_of(tmp_path / "one")


def test_broken_shard_names_its_file(cluster: Any, tmp_path: Path) -> None:
    sources, _ = write_corpus(tmp_path / "in")
    broken = tmp_path / "in" / "garden" / "1.parquet"
    broken.write_bytes(broken.read_bytes()[:-9] + b"not a file")
    with pytest.raises((ShardError, ValueError, OSError), match=r"garden/1\.parquet"):
        sharded_corpus(sources, str(tmp_path / "out"), RayEngine(), CONFIG)


def test_no_cluster_is_said_in_a_sentence() -> None:
    code = "from pipelines.engine.ray_engine import connected\nwith connected('auto'): pass"
    import subprocess
    import sys

    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert "Start one with `ray start --head`" in result.stderr or result.returncode == 0
