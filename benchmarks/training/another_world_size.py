"""Does a training that goes on with another number of GPUs end with the same weights? SmolLM2-135M's shapes, packed.

    PYTHONPATH=. python benchmarks/training/another_world_size.py documents.npz --output another_world_size.json

Trains the split with six experts on one GPU (twice, which shows what rounding alone does), on two (DDP, and FSDP), and
killed after a checkpoint and continued with the other number. Each step has two micro-batches everywhere.
Kernels add in a fixed order (`torch.use_deterministic_algorithms`), so that only the number of processes differs.
With `--one-gpu` the processes of a training share one GPU (see `one_gpu`).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from end_to_end_shapes import TOKENS_PER_STEP, Row, Tokenizer, adapter, base_model, documents
from fixed_order import deterministic
from one_gpu import share_gpu
from safetensors.torch import load_file

from hydralora.training import TrainingConfig, train
from hydralora.training.outputs.record import environment, write_json

WORKER = "worker"
STEPS, SAVE_STEPS = 24, 8
RUNS = {
    "one": (1,),
    "one, then two": (1, 2),
    "two, then one": (2, 1),
    "two, fsdp": (2,),
    "two": (2,),
    "one again": (1,),
}


def work(documents_path: str, gpus: int, folder: Path, size: str, tokens: int, one_gpu: bool) -> None:
    """One process of a training."""
    if one_gpu and gpus > 1:
        share_gpu()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    deterministic()
    torch.manual_seed(0)
    config = TrainingConfig(
        max_steps=STEPS,
        save_steps=SAVE_STEPS,
        tokens_per_step=tokens,
        gradient_accumulation_steps=2 // gpus,
        learning_rate=1e-3,
        fsdp=folder.name.endswith("fsdp"),
        cuda_graphs=False,  # several processes have none
    )
    row = Row("135M mixed", "ours", "split", size=size)
    data = documents(Path(documents_path), False, with_gates=True)
    base = base_model(row.size)
    base = base.cpu() if config.fsdp else base
    train(base, Tokenizer(), data, folder, config, peft_config=adapter(row))  # type: ignore[arg-type]


def start(gpus: int, folder: Path, given: argparse.Namespace) -> "subprocess.Popen[bytes]":
    """A training as a process, or torchrun's."""
    options = {"size": given.size, "tokens": given.tokens, "one_gpu": given.one_gpu}
    text = json.dumps({"documents_path": str(given.documents), "gpus": gpus, "folder": str(folder), **options})
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)] if gpus > 1 else []
    environ = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    return subprocess.Popen([sys.executable, *torchrun, __file__, WORKER, text], env=environ)


def trained(gpus: tuple[int, ...], folder: Path, given: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Weights at the end; every number but the last is killed after its first whole checkpoint."""
    for number in gpus[:-1]:
        process = start(number, folder, given)
        while not (folder / "checkpoints" / f"checkpoint-{SAVE_STEPS}" / "complete").exists():
            if process.poll() is not None:
                raise RuntimeError(f"ended with {process.returncode} before its first checkpoint")
            time.sleep(0.01)
        process.terminate()
        process.wait()
    if start(gpus[-1], folder, given).wait():
        raise RuntimeError("did not end well")
    return load_file(folder / "adapter_model.safetensors")


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest over the matrices of |a - b| / |b| (Frobenius), and the largest single difference."""
    relative = [float((a[name] - b[name]).norm() / b[name].norm()) for name in b]
    return {"relative": max(relative), "absolute": max(float((a[name] - b[name]).abs().max()) for name in b)}


def main() -> None:
    if sys.argv[1:2] == [WORKER]:
        values = json.loads(sys.argv[2])
        work(**{**values, "folder": Path(values["folder"])})
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--size", default="135M", help="of the base model, see `Row`")
    parser.add_argument("--tokens", type=int, default=TOKENS_PER_STEP, help="of a step")
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS), help="the first is compared with")
    parser.add_argument("--at-once", type=int, default=1, help="runs at a time")
    parser.add_argument("--one-gpu", action="store_true", help="for all processes of a training")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.at_once) as pool:
        own = {name: Path(folder) / name.replace(" ", "_") for name in given.runs}
        runs = {name: pool.submit(trained, RUNS[name], own[name], given) for name in own}
        expected = runs[given.runs[0]].result()
        for name, run in runs.items():
            try:
                found[name] = difference(run.result(), expected)
                record = json.loads((own[name] / "run.json").read_text())
                found[name] |= {key: record[key] for key in ("steps", "tokens", "num_processes")}
            except RuntimeError as error:
                found[name] = {"error": str(error)}
            print(name, json.dumps(found[name]), flush=True)
            write_json(
                given.output,
                {"environment": environment(), "steps": STEPS, "one_gpu": given.one_gpu, "minus_one": found},
            )


if __name__ == "__main__":
    main()
