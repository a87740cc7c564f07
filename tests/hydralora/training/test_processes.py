"""Runs in processes of their own: killed, terminated, several at once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.hydralora.small import save_run
from tests.processes import processes_of, wait_for

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-m", "hydralora.training", "--config"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WHOLE = [*TORCHRUN, "-m", "hydralora.training", "--config"]
SPLIT = [*TORCHRUN, str(Path(__file__).with_name("split_on_cpus.py")), "--config"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "HYDRALORA_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run.parent / "out" / "adapter_model.safetensors")


def record(run: Path) -> Any:
    return json.loads((run.parent / "out" / "run.json").read_text())


def save_without_dropout(folder: Path, **config: Any) -> Path:
    """A run of 12 steps; dropout would draw other masks in two processes."""
    folder.mkdir()
    run = save_run(folder, max_steps=12, learning_rate=0.01, save_steps=5, **config)
    run.write_text(run.read_text().replace('"lora_dropout": 0.1', '"lora_dropout": 0.0'))
    return run


def test_sigkill_and_a_rerun_give_the_same_weights(tmp_path: Path, environment: dict[str, str]) -> None:
    runs = [tmp_path / name for name in ("whole", "killed")]
    for folder in runs:
        folder.mkdir()
    whole, killed = (save_run(folder, max_steps=60, save_steps=7, learning_rate=0.01) for folder in runs)
    subprocess.run([*COMMAND, str(whole)], env=environment, check=True)
    process = subprocess.Popen([*COMMAND, str(killed)], env=environment)
    wait_for(tmp_path / "killed" / "out" / "checkpoints" / "checkpoint-14" / "complete", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "out" / "run.json").exists()
    subprocess.run([*COMMAND, str(killed)], env=environment, check=True)
    expected, found = weights(whole), weights(killed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_one_process_takes_one_of_several_gpus(tmp_path: Path, environment: dict[str, str]) -> None:
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1")
    runs = []
    for name, visible in (("one", gpus.split(",")[0]), ("all", gpus)):
        (tmp_path / name).mkdir()
        runs.append(save_run(tmp_path / name, max_steps=6, learning_rate=0.01))
        subprocess.run([*COMMAND, str(runs[-1])], env={**environment, "CUDA_VISIBLE_DEVICES": visible}, check=True)
    expected, found = map(weights, runs)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-4)


def test_two_processes_save_one_adapter_as_good_as_that_of_one(tmp_path: Path, environment: dict[str, str]) -> None:
    """Two processes with one micro-batch each read what one process reads in two."""
    one, two = (save_without_dropout(tmp_path / str(n), gradient_accumulation_steps=2 // n) for n in (1, 2))
    subprocess.run([*COMMAND, str(one)], env=environment, check=True)
    subprocess.run([*WHOLE, str(two)], env=environment, check=True)
    expected, found = weights(one), weights(two)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)
    assert record(two)["num_processes"] == 2
    assert record(two)["tokens"] == record(one)["tokens"]
    assert record(two)["held_out"]["after"]["all"] == pytest.approx(record(one)["held_out"]["after"]["all"], rel=1e-4)


def test_a_split_model_computes_as_whole_copies_do(tmp_path: Path, environment: dict[str, str]) -> None:
    """In autocast too, which accelerate gives only to whole copies."""
    config = {"gradient_accumulation_steps": 1, "autocast": True}
    whole, split = (save_without_dropout(tmp_path / str(fsdp), fsdp=fsdp, **config) for fsdp in (False, True))
    subprocess.run([*WHOLE, str(whole)], env=environment, check=True)
    subprocess.run([*SPLIT, str(split)], env=environment, check=True)
    torch.testing.assert_close(weights(split), weights(whole), rtol=1e-5, atol=1e-6)
    assert record(split)["held_out"]["after"]["all"] == pytest.approx(record(whole)["held_out"]["after"]["all"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPUs")
def test_refuses_to_split_where_it_would_copy(tmp_path: Path, environment: dict[str, str]) -> None:
    run = save_run(tmp_path, max_steps=5, fsdp=True)
    done = subprocess.run([*WHOLE, str(run)], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "fsdp splits a model between GPUs, and there are none" in done.stderr
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_split_model_resumes_to_the_same_weights(tmp_path: Path, environment: dict[str, str]) -> None:
    folders = [tmp_path / name for name in ("whole", "ended")]
    for folder in folders:
        folder.mkdir()
    config = {"max_steps": 40, "save_steps": 7, "learning_rate": 0.01, "gradient_accumulation_steps": 1, "fsdp": True}
    whole, ended = (save_run(folder, **config) for folder in folders)
    subprocess.run([*SPLIT, str(whole)], env=environment, check=True)
    process = subprocess.Popen([*SPLIT, str(ended)], env=environment)
    wait_for(tmp_path / "ended" / "out" / "checkpoints" / "checkpoint-14" / "complete", process)
    process.terminate()
    process.wait()
    assert not (tmp_path / "ended" / "out" / "run.json").exists()
    subprocess.run([*SPLIT, str(ended)], env=environment, check=True)
    expected, found = weights(whole), weights(ended)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("first", [1, 2], ids=["one_then_two_processes", "two_then_one_process"])
def test_another_number_of_processes_resumes_on_the_same_batches(
    tmp_path: Path, environment: dict[str, str], first: int
) -> None:
    """Each step has two micro-batches: two in one process, or one in each of two."""
    config = {"max_steps": 24, "save_steps": 7, "learning_rate": 0.01}
    commands = {1: COMMAND, 2: WHOLE}
    runs = [tmp_path / name / "run.json" for name in ("whole", "changed")]
    for run in runs:
        run.parent.mkdir()

    def start(run: Path, processes: int) -> "subprocess.Popen[bytes]":
        text = save_run(run.parent, **config, gradient_accumulation_steps=2 // processes).read_text()
        run.write_text(text.replace('"lora_dropout": 0.1', '"lora_dropout": 0.0'))
        return subprocess.Popen([*commands[processes], str(run)], env=environment)

    whole, changed = runs
    assert start(whole, 1).wait() == 0
    process = start(changed, first)
    wait_for(changed.parent / "out" / "checkpoints" / "checkpoint-7" / "complete", process)
    process.terminate()
    process.wait()
    assert start(changed, 3 - first).wait() == 0
    expected, found = weights(whole), weights(changed)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)


def test_sigterm_leaves_no_child(tmp_path: Path, environment: dict[str, str]) -> None:
    run = save_run(tmp_path, max_steps=100_000, save_steps=5, gradient_accumulation_steps=1)
    with subprocess.Popen([*WHOLE, str(run)], env=environment) as process:
        try:
            wait_for(tmp_path / "out" / "checkpoints" / "checkpoint-5" / "complete", process)
            assert len(processes_of(run)) == 3
            process.terminate()
            process.wait(timeout=120)
            assert processes_of(run) == []
        finally:
            for pid in processes_of(run):
                os.kill(pid, signal.SIGKILL)
