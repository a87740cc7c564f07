"""Ray's `TorchTrainer` on the GPUs of one host, with a worker killed, against torchrun: are the weights the same?

    PYTHONPATH=. python benchmarks/training/ray_gpus.py documents.npz --tokenizer FOLDER --output ray_gpus.json

SmolLM2-135M's shapes with random weights, HydraLoRA with three experts on all linear layers, two processes. Kernels add
in a fixed order (`torch.use_deterministic_algorithms`), so that equal weights can have equal bits; a second run of
torchrun shows whether they do. All three run at the same time. `--size tiny` rehearses it on CPUs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from another_world_size import difference
from end_to_end_shapes import base_model
from fixed_order import deterministic
from safetensors.torch import load_file
from transformers import AutoTokenizer

from hydralora.training.outputs.record import environment, write_json
from hydralora.training.run import run_from_json
from pipelines.engine.ray_engine import connected
from pipelines.engine.ray_training import train_on_ray

WORKER = "worker"
PROCESSES = 2
KILL_AFTER = 20  # steps


def save_inputs(path: Path, tokenizer_folder: Path, size: str, folder: Path) -> None:
    """A base model in a folder, and documents as text."""
    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.save_pretrained(folder / "base")
    base_model(size).save_pretrained(folder / "base")
    with np.load(path) as saved:
        tokens, ends, starts = saved["tokens"].astype(int), saved["lengths"].astype(int).cumsum(), saved["answer_start"]
    rows = []
    for end, begin, start in zip(ends, [0, *ends], starts.astype(int), strict=False):
        prompt, answer = tokens[begin : begin + start], tokens[begin + start : end]
        rows.append({"prompt": tokenizer.decode(prompt), "completion": tokenizer.decode(answer), "source": "mixed"})
    pq.write_table(pa.Table.from_pylist(rows[::4]), folder / "documents.parquet")


def describe(folder: Path, name: str, **config: Any) -> Path:
    """The JSON description of a run."""
    peft = {
        "peft_type": "HYDRALORA",
        "task_type": "CAUSAL_LM",
        "r": 8,
        "num_experts": 3,
        "target_modules": "all-linear",
    }
    path = folder / f"{name}.json"
    values = {
        "base_model": {"name_or_path": str(folder / "base")},
        "documents": str(folder / "documents.parquet"),
        "template": "plain",
        "max_length": 384,
        "folder": str(folder / name),
        "config": {"gradient_accumulation_steps": 1, "learning_rate": 1e-3, "save_steps": 10, **config},
        "peft_config": peft,
    }
    write_json(path, values)
    return path


def with_torchrun(description: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    environ = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *torchrun, __file__, WORKER, str(description)], env=environ, check=True)


def kill_a_worker(checkpoint: Path, killed: dict[str, Any]) -> None:
    while not checkpoint.exists():
        time.sleep(0.01)
    worker = next(p for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or []))
    killed["after_steps"] = max(int(path.name.split("-")[1]) for path in checkpoint.parent.parent.glob("*-*"))
    worker.kill()


def with_ray(description: Path, folder: Path, killed: dict[str, Any]) -> None:
    """On a Ray cluster of this host; a worker is killed after a checkpoint."""
    places = [str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")]
    variables = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONPATH": os.pathsep.join(places)}
    runtime = {"worker_process_setup_hook": deterministic, "env_vars": variables}
    gpus = torch.cuda.device_count()
    checkpoint = folder / "checkpoints" / f"checkpoint-{KILL_AFTER}" / "complete"
    threading.Thread(target=kill_a_worker, args=(checkpoint, killed), daemon=True).start()
    with connected(None, num_cpus=4, num_gpus=gpus, object_store_memory=80_000_000, runtime_env=runtime):
        train_on_ray(description, PROCESSES)


def main() -> None:
    if sys.argv[1:2] == [WORKER]:
        deterministic()
        run_from_json(Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--size", default="135M")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=8192, help="of a step")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_inputs(arguments.documents, arguments.tokenizer, arguments.size, folder)
        config = {"max_steps": arguments.steps, "tokens_per_step": arguments.tokens}
        killed: dict[str, Any] = {}
        descriptions = {run: describe(folder, run, **config) for run in ("torchrun", "again", "ray")}
        with ThreadPoolExecutor() as pool:
            others = [pool.submit(with_torchrun, descriptions[run]) for run in ("torchrun", "again")]
            with_ray(descriptions["ray"], folder / "ray", killed)
            for other in others:
                other.result()
        weights = {run: load_file(folder / run / "adapter_model.safetensors") for run in descriptions}
        expected = weights.pop("torchrun")
        found = {
            run: {
                **difference(own, expected),
                "same_bits": all(torch.equal(matrix, own[name]) for name, matrix in expected.items()),
            }
            for run, own in weights.items()
        }
        print(json.dumps(found), killed, flush=True)
        result = {"environment": environment(), **config, "killed": killed, "minus_torchrun": found}
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
