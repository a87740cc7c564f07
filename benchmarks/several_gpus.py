"""Packed training at the size of LLaMA2-7B on one GPU and on several of one host: DDP and FSDP, split against LoRA.

    PYTHONPATH=. python benchmarks/several_gpus.py documents.npz --output several_gpus.json

The documents are those of `end_to_end_documents.py`. Each GPU has the same tokens a step as the one alone. Every row is
a process (or torchrun's); results are written after each.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from end_to_end_shapes import (
    FULL_ROW,
    MICRO_BATCHES,
    TOKENS_PER_STEP,
    Row,
    Tokenizer,
    adapter,
    base_model,
    documents,
    layer_weights,
    speed,
)
from transformers import AutoModelForCausalLM, LlamaConfig

from hydralora.training import TrainingConfig, plan_run, train
from hydralora.training.outputs.record import environment, write_json

WORKER = "worker"
BLOCK = 1 << 20
DEFAULT = ["split:1", "split:2", "split:2:fsdp", "one:2", "one:2:fsdp", "one:1"]
LIMIT = 170  # seconds for a training


@dataclasses.dataclass(frozen=True)
class Launch:
    """One training: what adapter (see `Row`), on how many GPUs, split between them or not."""

    adapter: str
    gpus: int
    fsdp: bool = False

    @property
    def row(self) -> Row:
        return Row("7B mixed", "ours", self.adapter, r=8 if self.adapter == "split" else 16)


def base_on_cpu() -> Any:
    """The 7B model in the machine's memory, as FSDP wants it; weights are one random block, repeated."""
    config = LlamaConfig(vocab_size=49152, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    config.max_position_embeddings = 2 * FULL_ROW
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    block = torch.randn(BLOCK).mul_(0.02).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.view(-1)
            if parameter.dim() == 1:
                flat.fill_(1.0)
                continue
            for start in range(0, len(flat), BLOCK):
                flat[start : start + BLOCK] = block[: min(BLOCK, len(flat) - start)]
    rotary = LlamaConfig(**config.to_dict())
    model.model.rotary_emb = type(model.model.rotary_emb)(rotary)  # its buffers were not drawn
    model.name_or_path = "random 7B"
    return model.requires_grad_(False).eval()


def work(path: Path, launch: Launch, steps: int, output: Path) -> None:
    """One process of a training."""
    started = time.monotonic()
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    data = documents(path, False, with_gates=launch.adapter == "split")
    config = TrainingConfig(
        max_steps=steps,
        tokens_per_step=TOKENS_PER_STEP * launch.gpus,
        gradient_accumulation_steps=MICRO_BATCHES,
        save_steps=1000,
        fsdp=launch.fsdp,
    )
    model = base_on_cpu() if launch.fsdp else base_model("7B")
    weights = layer_weights(model)
    print(f"the model is there after {time.monotonic() - started:.1f} s", flush=True)
    torch.cuda.reset_peak_memory_stats()
    folder = output.with_suffix(".run")
    result = train(model, Tokenizer(), data, folder, config, peft_config=adapter(launch.row))  # type: ignore[arg-type]
    peak = torch.cuda.max_memory_allocated() / 2**30
    if os.environ.get("RANK", "0") == "0":
        curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
        tokens = plan_run(data, config, num_processes=launch.gpus).tokens_of_step
        values = {
            **dataclasses.asdict(launch),
            **speed([line["seconds"] for line in curve], tokens.tolist(), weights),
            "peak_gib": round(peak, 2),
            "packing": result.record.get("packing"),
            "fused_modules": result.record.get("fused_modules"),
            "first_step_s": curve[0]["seconds"],
            "seconds": result.record["seconds"],
            "worker_s": round(time.monotonic() - started, 1),
            "padding": result.record["padding_share"],
            "losses": [line["loss"] for line in curve],
        }
        write_json(output, values)


def main() -> None:
    if sys.argv[1:2] == [WORKER]:
        values = json.loads(sys.argv[2])
        work(Path(values["path"]), Launch(**values["launch"]), values["steps"], Path(values["output"]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--launches", nargs="+", default=DEFAULT, help="adapter:GPUs, or adapter:GPUs:fsdp")
    arguments = parser.parse_args()
    launches = [
        Launch(name, int(gpus), bool(split)) for name, gpus, *split in (x.split(":") for x in arguments.launches)
    ]
    rows: list[dict[str, Any]] = []
    for launch in launches:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "result.json"
            values = {"path": str(arguments.documents), "launch": dataclasses.asdict(launch), "output": str(output)}
            text = json.dumps({**values, "steps": arguments.steps})
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(launch.gpus)]
            processes = torchrun if launch.gpus > 1 else []
            environ = {**os.environ, "OMP_NUM_THREADS": str((os.cpu_count() or 1) // launch.gpus)}
            process = subprocess.Popen([sys.executable, *processes, __file__, WORKER, text], env=environ)
            try:
                rc = process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                process.terminate()  # torchrun ends its workers
                rc = process.wait(40)
            found = json.loads(output.read_text()) if output.exists() else {**values["launch"], "rc": rc}
        rows.append({**found, "wall_s": round(time.monotonic() - started, 1)})
        print(json.dumps({name: value for name, value in rows[-1].items() if name != "losses"}), flush=True)
        write_json(arguments.output, {"environment": environment(), "steps": arguments.steps, "trainings": rows})


if __name__ == "__main__":
    main()
