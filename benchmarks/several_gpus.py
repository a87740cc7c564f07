"""Packed training at the size of LLaMA2-7B on one GPU and on several of one host: DDP and FSDP, split against LoRA.

    PYTHONPATH=. python benchmarks/several_gpus.py documents.npz --output several_gpus.json

The documents are those of `end_to_end_documents.py`. Each GPU has the same tokens a step as the one alone. A launch is
adapter:GPUs:mode:rows, for example split:2:fsdp:8192 or one:2:ddp:4096x2:checkpointing (rows of a GPU and step: tokens,
times their number). Launches of one mode share their processes; those on one GPU run side by side, one on each.
"""

import argparse
import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from another_world_size import difference
from end_to_end_shapes import FULL_ROW, Row, Tokenizer, adapter, base_model, documents, layer_weights, speed
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from hydralora.training import TrainingConfig, plan_run, train
from hydralora.training.outputs.record import environment, write_json

WORKER = "worker"
BLOCK = 1 << 20
DEFAULT = [
    f"{adapter}:{mode}:{rows}"
    for mode in ("1:one", "2:ddp", "2:fsdp")
    for adapter in ("split", "one")
    for rows in ("8192", "4096:checkpointing")
]
LIMIT = 60  # seconds for a training


@dataclasses.dataclass(frozen=True)
class Launch:
    """One training: what adapter (see `Row`), on how many GPUs, and the rows of a GPU in a step."""

    adapter: str
    gpus: int
    mode: str
    tokens: int
    rows: int = 1
    checkpointing: bool = False

    @classmethod
    def of(cls, text: str) -> "Launch":
        name, gpus, mode, rows, *more = text.split(":")
        tokens, _, times = rows.partition("x")
        return cls(name, int(gpus), mode, int(tokens), int(times or 1), more == ["checkpointing"])

    @property
    def name(self) -> str:
        return f"{self.adapter}:{self.tokens}x{self.rows}{':checkpointing' * self.checkpointing}"

    @property
    def group(self) -> tuple[int, str, str]:
        """Launches that share processes."""
        return self.gpus, self.mode, self.adapter if self.gpus == 1 else ""

    @property
    def row(self) -> Row:
        return Row("7B mixed", "ours", self.adapter, r=8 if self.adapter == "split" else 16)


def base_on_cpu(size: str) -> Any:
    """The model in the machine's memory, as FSDP wants it; weights are one random block, repeated."""
    if size != "7B":
        return base_model(size).cpu()
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


def work(path: Path, launches: Sequence[Launch], steps: int, size: str, folder: Path) -> None:
    """One process of some trainings."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    for number, launch in enumerate(launches):
        values = measure(path, launch, steps, size, folder / f"{launch.mode}-{launch.name}")
        gc.collect()
        torch.cuda.empty_cache()
        if os.environ.get("RANK", "0") == "0":
            write_json(folder / f"{launch.mode}-{launch.adapter}-{number}.json", values)
            print(json.dumps({name: value for name, value in values.items() if name != "losses"}), flush=True)


def measure(path: Path, launch: Launch, steps: int, size: str, folder: Path) -> dict[str, Any]:
    started = time.monotonic()
    splits = launch.mode == "fsdp"
    data = documents(path, False, with_gates=launch.adapter == "split")
    config = TrainingConfig(
        max_steps=steps,
        tokens_per_step=launch.tokens * launch.rows * launch.gpus,
        gradient_accumulation_steps=launch.rows,
        gradient_checkpointing=launch.checkpointing,
        learning_rate=1e-4,
        save_steps=1000,
        fsdp=splits,
    )
    model = base_on_cpu(size)  # the same weights in every launch
    if not splits and torch.cuda.is_available():
        model = model.cuda()
    weights = layer_weights(model)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    result = train(model, Tokenizer(), data, folder, config, peft_config=adapter(launch.row))  # type: ignore[arg-type]
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    tokens = plan_run(data, config, num_processes=launch.gpus, packed=True).tokens_of_step
    return {
        **dataclasses.asdict(launch),
        **speed([line["seconds"] for line in curve], tokens.tolist(), weights),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else None,
        "packing": result.record["packing"],
        "fused_modules": result.record["fused_modules"],
        "cuda_graphs": result.record["cuda_graphs"],
        "data_wait_share": result.record["data_wait_share"],
        "first_step_s": curve[0]["seconds"],
        "seconds": result.record["seconds"],
        "worker_s": round(time.monotonic() - started, 1),
        "losses": [line["loss"] for line in curve],
    }


def start(path: Path, launches: Sequence[Launch], gpu: int, steps: int, size: str, folder: Path) -> Any:
    """The processes of launches of one mode."""
    gpus = launches[0].gpus
    values = {"path": str(path), "launches": [dataclasses.asdict(launch) for launch in launches], "steps": steps}
    text = json.dumps({**values, "size": size, "folder": str(folder)})
    processes = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)] if gpus > 1 else []
    environ = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))}
    if gpus == 1:
        environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    return subprocess.Popen([sys.executable, *processes, __file__, WORKER, text], env=environ)


def finish(process: Any, launches: Sequence[Launch]) -> None:
    try:
        process.wait(30 + LIMIT * len(launches))
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its workers
        process.wait(40)


def compared(folder: Path, launches: Sequence[Launch]) -> dict[str, dict[str, float]]:
    """Trained weights with FSDP against those with DDP, which read the same batches."""
    found = {}
    for launch in launches:
        ddp, fsdp = (folder / f"{mode}-{launch.name}" / "adapter_model.safetensors" for mode in ("ddp", "fsdp"))
        if launch.mode == "fsdp" and ddp.exists() and fsdp.exists():
            found[launch.name] = difference(load_file(fsdp), load_file(ddp))
    return found


def main() -> None:
    if sys.argv[1:2] == [WORKER]:
        values = json.loads(sys.argv[2])
        own = [Launch(**launch) for launch in values["launches"]]
        work(Path(values["path"]), own, values["steps"], values["size"], Path(values["folder"]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--size", default="7B", help="of the base model, see `Row`")
    parser.add_argument("--launches", nargs="+", default=DEFAULT)
    arguments = parser.parse_args()
    launches = [Launch.of(text) for text in arguments.launches]
    groups = {key: [launch for launch in launches if launch.group == key] for key in {x.group: None for x in launches}}
    alone = [group for (gpus, *_), group in groups.items() if gpus == 1]
    together = [group for (gpus, *_), group in groups.items() if gpus > 1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = arguments.steps, arguments.size, folder
        for batch in [alone, *([group] for group in together)]:
            started = [start(arguments.documents, group, gpu, *common) for gpu, group in enumerate(batch)]
            for process, group in zip(started, batch, strict=True):
                finish(process, group)
            rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
            result = {"environment": environment(), "steps": arguments.steps, "trainings": rows}
            write_json(arguments.output, {**result, "fsdp_minus_ddp": compared(folder, launches)})
    print(json.dumps(json.loads(arguments.output.read_text())["fsdp_minus_ddp"]))


if __name__ == "__main__":
    main()
