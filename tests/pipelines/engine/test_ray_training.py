"""Trainings by Ray's `TorchTrainer`: the weights of torchrun's, also if a worker is killed; refusals in a sentence."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from pipelines.engine.ray_engine import connected
from pipelines.engine.ray_training import FOLDER, RayTrainingError, train_on_ray
from tests.hydralora.small import save_run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("ray")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ |= {"RAY_DISABLE_MEMORY_MONITOR": "1", "RAY_memory_monitor_refresh_ms": "0"}
    with connected(None, num_cpus=2, num_gpus=0, object_store_memory=80_000_000):
        yield


def described(folder: Path, **config: int | float) -> Path:
    folder.mkdir()
    path = save_run(folder, learning_rate=0.01, gradient_accumulation_steps=1, **config)
    path.write_text(path.read_text().replace('"lora_dropout": 0.1', '"lora_dropout": 0.0'))
    return path


def kill_a_worker(checkpoint: Path, killed: list[int]) -> None:
    while not checkpoint.exists():
        time.sleep(0.01)
    worker = next(p for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or []))
    killed.append(worker.pid)
    worker.kill()


def test_a_killed_worker_and_torchrun_give_the_same_weights(tmp_path: Path) -> None:
    config = {"max_steps": 60, "save_steps": 7}
    expected = described(tmp_path / "torchrun", **config)
    subprocess.run([*TORCHRUN, "-m", "hydralora.training", "--config", str(expected)], check=True)
    path, killed = described(tmp_path / "killed", **config), list[int]()
    checkpoint = tmp_path / "killed" / "out" / "checkpoints" / "checkpoint-14" / "complete"
    threading.Thread(target=kill_a_worker, args=(checkpoint, killed), daemon=True).start()
    record = train_on_ray(path, workers=2)
    assert killed
    assert not (tmp_path / "killed" / "out" / FOLDER).exists()
    one, two = (load_file(tmp_path / name / "out" / "adapter_model.safetensors") for name in ("torchrun", "killed"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    by_torchrun = json.loads((tmp_path / "torchrun" / "out" / "run.json").read_text())
    assert record.keys() == by_torchrun.keys()
    for name in ("config", "data", "num_processes", "steps", "tokens", "held_out"):
        assert record[name] == by_torchrun[name]


def test_an_error_of_the_training_is_told_once(tmp_path: Path) -> None:
    path = described(tmp_path / "run", max_steps=2)
    path.write_text(path.read_text().replace('"max_length": 64', '"max_length": 64, "template": "none such"'))
    with pytest.raises(RayTrainingError, match="none such"):
        train_on_ray(path, workers=2)


def test_too_few_cpus(tmp_path: Path) -> None:
    with pytest.raises(RayTrainingError, match="workers: expected 1 to 2, the CPUs of the Ray cluster, got 3"):
        train_on_ray(described(tmp_path / "run", max_steps=2), workers=3)
