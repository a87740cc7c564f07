"""Trainings in processes of their own: the same adapters, live logs, clear failures, and nobody left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch
from safetensors.torch import load_file

from hydralora.data import TokenisedDocuments, tokenise
from hydralora.training.run import run_from_json
from pipelines.engine import ray_training
from pipelines.training.adapters import TrainingJob
from pipelines.training.launcher import FOLDER, Job, Launcher, gpus_of
from pipelines.training.recipe import BaseModel, Recipe
from tests.hydralora.small import small_documents, small_model, small_tokenizer
from tests.processes import processes_of, wait_for

METHODS = ("lora_r8", "lorahub")
SHORT: dict[str, Any] = {
    "max_steps": 6,
    "tokens_per_step": 128,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.01,
}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRALORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def base_model(folder: Path) -> BaseModel:
    if not folder.exists():
        small_model().save_pretrained(folder)
        small_tokenizer().save_pretrained(folder)
    return BaseModel(name=str(folder))


def documents() -> TokenisedDocuments:
    return tokenise([{**row, "cluster": i % 2} for i, row in enumerate(small_documents())], small_tokenizer())


def launch(
    folder: Path, launcher: Launcher, methods: tuple[str, ...] = METHODS, **recipe: Any
) -> tuple[dg.ExecuteInProcessResult, list[str]]:
    """Train methods in an asset; its result and the messages of its log."""
    base = base_model(folder.parent / "base")

    @dg.asset
    def adapters(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        tokens = documents()
        jobs = [
            Job(folder / method, TrainingJob(method, 2, seed=0, measure_energy=False), tokens) for method in methods
        ]
        launcher.train(context, jobs, Recipe(**{**SHORT, **recipe}), base)
        return dg.MaterializeResult()

    with dg.instance_for_test() as instance:
        result = dg.materialize([adapters], instance=instance, raise_on_error=False)
        return result, [entry.user_message for entry in instance.all_logs(result.run_id)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def failure_text(result: dg.ExecuteInProcessResult) -> str:
    failure = result.failure_data_for_node("adapters")
    assert failure is not None
    assert failure.user_failure_data is not None
    return str(failure.user_failure_data.description)


def record(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.slow
def test_side_by_side_gives_the_same_adapters(tmp_path: Path) -> None:
    assert launch(tmp_path / "one", Launcher())[0].success
    result, log = launch(tmp_path / "two", Launcher(parallel=2))
    assert result.success, log
    for method in METHODS:
        expected, found = weights(tmp_path / "one" / method), weights(tmp_path / "two" / method)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        assert not (tmp_path / "two" / method / FOLDER).exists()
        assert any(f"{method} ({method}): step 6 of 6, loss" in line and "tokens/s" in line for line in log)


@pytest.mark.slow
def test_several_processes_for_one_training(tmp_path: Path) -> None:
    result, log = launch(tmp_path / "two", Launcher(processes_per_training=2), ("lora_r8",))
    assert result.success, log
    assert record(tmp_path / "two" / "lora_r8")["num_processes"] == 2
    assert any("lora_r8 (lora_r8): step 6 of 6, loss" in line for line in log)


@pytest.mark.slow
def test_a_failure_is_told_and_spoils_no_other(tmp_path: Path) -> None:
    checkpoints = tmp_path / "out" / "lora_r16" / "checkpoints"
    checkpoints.mkdir(parents=True)
    another = {"config": {"max_steps": 9, "gradient_accumulation_steps": 1}, "num_processes": 1}
    (checkpoints / "identity.json").write_text(json.dumps(another))
    result, log = launch(tmp_path / "out", Launcher(parallel=2), ("lora_r16", "lora_r8"))
    reason = f"lora_r16 (lora_r16): {checkpoints} holds checkpoints of a run with another config"
    assert f"1 of 2 trainings failed.\n{reason}" in failure_text(result)
    assert any(reason in line for line in log)
    assert record(tmp_path / "out" / "lora_r8")["steps"] == 6


def test_nothing_is_left_of_a_run_that_was_ended(tmp_path: Path) -> None:
    """Of a training that had finished while others had not."""
    finished = tmp_path / "out" / "lora_r8"
    (finished / FOLDER / "tokens").mkdir(parents=True)
    (finished / "run.json").write_text("{}")
    assert launch(tmp_path / "out", Launcher(), ("lora_r8",))[0].success
    assert [path.name for path in finished.iterdir()] == ["run.json"]


def test_methods_that_do_not_fit_stop_before_anything_is_trained(tmp_path: Path) -> None:
    result, _ = launch(tmp_path / "out", Launcher(), ("lora_r8", "lora_matched"))
    assert "lora_matched (lora_matched): lora_matched needs match_parameters" in failure_text(result)
    assert not (tmp_path / "out").exists()


SCRIPT = """
import sys
from pathlib import Path
from tests.pipelines.training.test_launcher import launch
from pipelines.training.launcher import Launcher
launcher = Launcher(parallel=2, processes_per_training=int(sys.argv[2]))
launch(Path(sys.argv[1]), launcher, max_steps=int(sys.argv[3]), save_steps=7)
"""


def start(folder: Path, processes: int, max_steps: int) -> "subprocess.Popen[bytes]":
    """Train in an asset of another process."""
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(processes), str(max_steps)])


@pytest.mark.slow
def test_killed_trainings_continue_to_the_same_weights(tmp_path: Path) -> None:
    options = {"max_steps": 60, "save_steps": 7}
    assert launch(tmp_path / "whole", Launcher(), ("lora_r8",), **options)[0].success
    with start(tmp_path / "killed", 1, 60) as asset:
        wait_for(tmp_path / "killed" / "lora_r8" / "checkpoints" / "checkpoint-14" / "complete", asset)
        asset.kill()
    while processes_of(tmp_path / "killed"):
        time.sleep(0.1)
    assert not (tmp_path / "killed" / "lora_r8" / "run.json").exists()
    assert launch(tmp_path / "killed", Launcher(parallel=2), **options)[0].success
    assert not list((tmp_path / "killed").glob(f"*/{FOLDER}"))
    expected, found = (weights(tmp_path / name / "lora_r8") for name in ("whole", "killed"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize(("end", "processes"), [(signal.SIGTERM, 2), (signal.SIGKILL, 2), (signal.SIGINT, 1)])
def test_the_end_of_the_asset_is_the_end_of_its_processes(tmp_path: Path, end: int, processes: int) -> None:
    folder = tmp_path / "out"
    with start(folder, processes, 100_000) as asset:
        try:
            wait_for(folder / "lora_r8" / "curve.jsonl", asset)
            assert len(processes_of(folder)) >= 1 + processes
            asset.send_signal(end)
            asset.wait(timeout=120)
            deadline = time.monotonic() + 60
            while processes_of(folder) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert processes_of(folder) == []
        finally:
            for pid in processes_of(folder):
                os.kill(pid, signal.SIGKILL)


def test_trainings_take_turns_with_gpus() -> None:
    assert [gpus_of(slot, ["0", "1", "2", "3", "4"], 2) for slot in range(3)] == [["0", "1"], ["2", "3"], ["0", "1"]]
    assert gpus_of(3, ["7"], 1) == ["7"]
    with pytest.raises(dg.Failure, match=r"at least 2 GPUs .* got 1"):
        gpus_of(0, ["0"], 2)


def test_on_ray_each_training_is_handed_over_and_failures_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tests/pipelines/engine/test_ray_training.py` has the trainings on a cluster."""
    handed: list[tuple[str, int]] = []

    def train_on_ray(description: Path, workers: int) -> None:
        handed.append((description.parents[1].name, workers))
        if handed[-1][0] == "lorahub":
            raise ray_training.RayTrainingError("out of luck")
        run_from_json(description)

    monkeypatch.setattr(ray_training, "train_on_ray", train_on_ray)
    monkeypatch.setattr(Launcher, "cluster", lambda self: nullcontext())
    result, _ = launch(tmp_path / "out", Launcher(engine="ray", processes_per_training=2))
    assert handed == [("lora_r8", 2), ("lorahub", 2)]
    assert "1 of 2 trainings failed.\nlorahub (lorahub): out of luck" in failure_text(result)
    assert (tmp_path / "out" / "lora_r8" / "run.json").exists()
    assert not (tmp_path / "out" / "lora_r8" / FOLDER).exists()
