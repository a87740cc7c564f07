"""Training at the size of the paper's base model: speed, memory and energy by method, and several GPUs by torchrun.

    python benchmarks/training/seven_billion.py methods    # on one GPU, for the paper's Table 4
    python benchmarks/training/seven_billion.py gpus       # HydraLoRA on all there are

LLaMA2-7B's layers with random weights, which cost what trained ones cost, and SmolLM2's vocabulary; documents of GSM8K
from `HYDRALORA_CORPORA`. On several GPUs each has the same tokens a step, and a copy of the base (DDP) or a part of it
(FSDP).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hydralora.base_model import provision_embedded_base_model
from hydralora.data import tokenise
from hydralora.methods import MethodConfig
from hydralora.training.outputs.record import environment, write_json
from hydralora.training.run import run_from_json
from pipelines.study.running.costs import steady_speed

REPOSITORY = Path(__file__).resolve().parents[2]
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", REPOSITORY.parent / "shared" / "corpora"))
RESULTS = REPOSITORY / "benchmarks" / "results"
SHAPES = REPOSITORY / "pipelines" / "configs" / "llama2-7b"
METHODS = ("lora_r8", "lora_r16", "lora_r32", "hydralora")  # the first also pays for the page cache
SETTINGS = MethodConfig(num_experts=3, target_modules=("q_proj", "v_proj"))
TOKENS_PER_GPU = 8192
WORKER = "worker"


@dataclass(frozen=True)
class Launch:
    """One training, on some GPUs."""

    method: str
    gpus: int
    fsdp: bool = False


def launches(part: str, gpus: int) -> list[Launch]:
    if part == "methods":
        return [Launch(method, 1) for method in METHODS]
    several = [n for n in (2, 4, 8) if n <= gpus]
    split = [Launch("hydralora", n, fsdp=True) for n in several[-1:]]
    return [*(Launch("hydralora", n) for n in several), *split, Launch("hydralora", 1)]


def save_base_model(folder: Path, shapes: Path) -> None:
    """Random weights in bfloat16, drawn on the GPU if there is one."""
    embedded = provision_embedded_base_model()
    tokenizer = AutoTokenizer.from_pretrained(embedded)
    tokenizer.save_pretrained(folder)
    config = AutoConfig.from_pretrained(shapes)
    config.vocab_size = AutoConfig.from_pretrained(embedded).vocab_size
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def save_documents(folder: Path, base_model: Path) -> None:
    rows = pq.read_table(CORPORA / "gsm8k_train.parquet").to_pylist()
    records = [{"prompt": row["instruction"], "completion": row["output"], "source": "gsm8k"} for row in rows]
    tokenise(records, AutoTokenizer.from_pretrained(base_model), template="plain", max_length=512).save(folder)


def measure(launch: Launch, folder: Path, steps: int) -> dict[str, Any]:
    """What a training took, once its first steps were over."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    config = {"max_steps": steps, "tokens_per_step": TOKENS_PER_GPU * launch.gpus, "fsdp": launch.fsdp}
    description = {
        "base_model": {"name_or_path": str(folder / "base")},
        "documents": str(folder / "documents"),
        "folder": str(run / "out"),
        "method": launch.method,
        "method_config": asdict(SETTINGS),
        "config": {**config, "gradient_accumulation_steps": 2, "save_steps": 10 * steps},
        "measure_energy": True,
    }
    write_json(run / "run.json", description)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(launch.gpus)]
    processes = torchrun if launch.gpus > 1 else []
    subprocess.run([sys.executable, *processes, __file__, WORKER, str(run / "run.json")], check=True)
    record = json.loads((run / "out" / "run.json").read_text())
    return {
        **asdict(launch),
        "tokens_per_second": steady_speed(pl.read_ndjson(run / "out" / "curve.jsonl")),
        "tokens": record["tokens"],
        "trainable": record["parameters"]["trainable"],
        "energy": record["energy"],
        "peak_gib": json.loads((run / "peak.json").read_text()),
    }


def work(description: Path) -> None:
    """One process of a training."""
    run_from_json(description)
    if int(os.environ.get("RANK", "0")) == 0:
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
        write_json(description.with_name("peak.json"), peak)


def main() -> None:
    if sys.argv[1:2] == [WORKER]:
        work(Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("methods", "gpus"))
    parser.add_argument("--shapes", type=Path, default=SHAPES, help="folder with the config.json of the base model")
    parser.add_argument("--gpus", type=int, default=max(1, torch.cuda.device_count()), help="most GPUs of a training")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    name = "seven_billion.json" if arguments.part == "methods" else "seven_billion_gpus.json"
    output = arguments.output or RESULTS / name
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_base_model(folder / "base", arguments.shapes)
        save_documents(folder / "documents", folder / "base")
        rows = []
        for launch in launches(arguments.part, arguments.gpus):
            rows.append(measure(launch, folder, arguments.steps))
            print(json.dumps(rows[-1]), flush=True)
            # After each, so that an end in between loses one.
            write_json(output, {"environment": environment(), "steps": arguments.steps, "trainings": rows})


if __name__ == "__main__":
    main()
