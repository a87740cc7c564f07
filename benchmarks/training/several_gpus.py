"""Packed training at the size of LLaMA2-7B on one GPU and on several of one host: DDP and FSDP, split against LoRA.

    PYTHONPATH=. python benchmarks/training/several_gpus.py documents.npz --output several_gpus.json

The documents are those of `end_to_end_documents.py`. Each GPU has the same tokens a step as the one alone. A launch is
adapter:GPUs:mode:rows, for example split:2:fsdp:8192 or one:2:ddp:6144x2:checkpointing (rows of a GPU and step: tokens,
times their number). Each has its own processes and its own time limit, and none stops the others. They run in the order
given; neighbours on one GPU run side by side, one on each. The processes of the next launch import their libraries
meanwhile, and wait. With `--one-rank` each launch has its first process alone (see `one_gpu`).
"""

import argparse
import contextlib
import dataclasses
import faulthandler
import importlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from another_world_size import difference
from end_to_end_shapes import FULL_ROW, Row, Tokenizer, adapter, base_model, documents, layer_weights, speed
from one_gpu import gathered, join_alone
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from hydralora.training import RunOptions, TrainingConfig, plan_run, train
from hydralora.training.outputs.record import environment, write_json

WORKER = "worker"
BLOCK = 1 << 20
LATE = 45  # seconds after which, again and again, a launch says where it stands
DEFAULT = [
    f"{adapter}:{mode}:{rows}"
    for adapter in ("split", "one")
    for mode in ("1:one", "2:ddp", "2:fsdp")
    for rows in ("8192", "6144:checkpointing")
]


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
        return f"{self.adapter}-{self.mode}-{self.tokens}x{self.rows}{'-checkpointing' * self.checkpointing}"

    @property
    def row(self) -> Row:
        return Row("7B mixed", "ours", self.adapter, r=8 if self.adapter == "split" else 16)


def base_on(device: str, size: str) -> Any:
    """The base model on a device; at 7B its weights are one random block, repeated, which takes no time to draw."""
    if size != "7B":
        return base_model(size).to(device)
    config = LlamaConfig(vocab_size=49152, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    config.max_position_embeddings = 2 * FULL_ROW
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model.to_empty(device=device)
    torch.manual_seed(0)
    block = torch.randn(BLOCK).mul_(0.02).to(device, torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.view(-1)
            if parameter.dim() == 1:
                flat.fill_(1.0)
                continue
            for start in range(0, len(flat), BLOCK):
                flat[start : start + BLOCK] = block[: min(BLOCK, len(flat) - start)]
    rotary = LlamaConfig(**config.to_dict())
    model.model.rotary_emb = type(model.model.rotary_emb)(rotary).to(device)  # its buffers were not drawn
    model.name_or_path = "random 7B"
    return model.requires_grad_(False).eval()


def measure(path: Path, launch: Launch, steps: int, size: str, folder: Path) -> dict[str, Any]:
    """One process of a training, and what it took."""
    started = time.monotonic()
    on_gpu, splits = torch.cuda.is_available(), launch.mode == "fsdp"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
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
    # As in a run from the command line: FSDP splits a model in the machine's memory.
    model = base_on("cuda" if on_gpu and not splits else "cpu", size)
    weights = layer_weights(model)
    peaks: list[int] = []  # without the check of the saved adapter, which follows the last step
    options = RunOptions(progress=lambda _: peaks.append(torch.cuda.max_memory_allocated()))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    adapted: Any = adapter(launch.row)
    result = train(model, Tokenizer(), data, folder, config, peft_config=adapted, options=options)  # type: ignore[arg-type]
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    tokens = plan_run(data, config, num_processes=launch.gpus, packed=True).tokens_of_step
    copied = ("packing", "fused_modules", "cuda_graphs", "data_wait_share", "seconds", "memory")
    return {
        **dataclasses.asdict(launch),
        **speed([line["seconds"] for line in curve], tokens.tolist(), weights),
        "peak_gib": round(max(peaks, default=0) / 2**30, 2),
        **{name: result.record[name] for name in copied},
        "first_step_s": curve[0]["seconds"],
        "worker_s": round(time.monotonic() - started, 1),
        "losses": [line["loss"] for line in curve],
    }


def start(launch: Launch, gpu: int, folder: Path, given: argparse.Namespace) -> "list[subprocess.Popen[bytes]]":
    """The processes of a launch, which wait for a line; one on a single GPU sees no other."""
    values = {"path": str(given.documents), "steps": given.steps, "size": given.size, "one_rank": given.one_rank}
    text = json.dumps({**values, "launch": dataclasses.asdict(launch), "folder": str(folder / launch.name)})
    environ = {"OMP_NUM_THREADS": "1", **os.environ}
    if launch.gpus == 1:
        environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(launch.gpus)}
    command = [sys.executable, __file__, WORKER, text]
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if launch.gpus > 1 else {} for rank in range(launch.gpus)]
    started = ranks[:1] if given.one_rank else ranks
    return [subprocess.Popen(command, env=environ | rank, stdin=subprocess.PIPE) for rank in started]


def begin(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it failed before
        process.stdin.write(b"begin\n")
        process.stdin.close()


def finish(processes: "Sequence[subprocess.Popen[bytes]]", limit: float) -> None:
    """Wait for all processes of a launch. If one fails, or after `limit` seconds, end the others."""
    late = time.monotonic() + limit
    codes: list[int | None] = [None]
    while None in codes and not any(codes) and time.monotonic() < late:
        time.sleep(0.05)
        codes = [process.poll() for process in processes]
    for process in processes:
        process.kill()
        process.wait()


def side_by_side(launches: Sequence[Launch], gpus: int) -> Iterator[Sequence[Launch]]:
    """Neighbours that need one GPU, as many as there are GPUs; every other launch by itself."""
    waiting: list[Launch] = []
    for launch in launches:
        if waiting and (launch.gpus > 1 or len(waiting) == gpus):
            yield waiting
            waiting = []
        waiting.append(launch)
        if launch.gpus > 1:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def compared(folder: Path, launches: Sequence[Launch]) -> dict[str, dict[str, float]]:
    """Trained weights with FSDP against those with DDP, which read the same batches."""
    found = {}
    for launch in (launch for launch in launches if launch.mode == "fsdp"):
        whole = dataclasses.replace(launch, mode="ddp")
        split, ddp = (folder / name / "adapter_model.safetensors" for name in (launch.name, whole.name))
        if split.exists() and ddp.exists():
            found[launch.name] = difference(load_file(split), load_file(ddp))
    return found


def work(text: str) -> None:
    """One process of a launch; it begins when it reads a line."""
    importlib.import_module("hydralora.training.trainer")  # which `train` imports late
    if not sys.stdin.readline():
        return
    values = json.loads(text)
    faulthandler.dump_traceback_later(LATE, repeat=True)
    launch, folder = Launch(**values["launch"]), Path(values["folder"])
    if values["one_rank"] and launch.gpus > 1:
        join_alone(launch.gpus)
    row = measure(Path(values["path"]), launch, values["steps"], values["size"], folder)
    if values["one_rank"]:
        row["gathered_gib_a_step"] = round(sum(gathered) / values["steps"] / 2**30, 2)
    if os.environ.get("RANK", "0") == "0":
        write_json(folder / "row.json", row)
        print(json.dumps({name: value for name, value in row.items() if name not in ("losses", "steps_s")}))


def run_all(launches: Sequence[Launch], given: argparse.Namespace, folder: Path) -> Iterator[None]:
    """Run launches in their order; yields whenever rows are there."""

    def started(batch: Sequence[Launch]) -> "list[list[subprocess.Popen[bytes]]]":
        return [start(launch, i, folder, given) for i, launch in enumerate(batch)]

    began = time.monotonic()
    batches = list(side_by_side(launches, max(1, torch.cuda.device_count())))
    waiting = started(batches[0])
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
        if time.monotonic() - began > given.budget:
            print("out of time before", batch[0].name, flush=True)
            break
        running = waiting
        for process in itertools.chain(*running):
            begin(process)
        waiting = started(following)
        for processes in running:
            finish(processes, given.limit)
        yield
    for processes in waiting:
        finish(processes, 0)


def main() -> None:
    if sys.argv[1:2] == [WORKER]:
        work(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--size", default="7B", help="of the base model, see `Row`")
    parser.add_argument("--limit", type=float, default=240, help="seconds for a launch")
    parser.add_argument("--budget", type=float, default=3600, help="seconds after which no launch starts")
    parser.add_argument("--launches", nargs="+", default=DEFAULT)
    parser.add_argument("--one-rank", action="store_true", help="only the first process of a launch, on one GPU")
    given = parser.parse_args()
    launches = [Launch.of(text) for text in given.launches]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / launch.name / "row.json" for launch in launches]
        for _ in run_all(launches, given, folder):
            rows = [json.loads(path.read_text()) for path in paths if path.exists()]
            result = {"environment": environment(), "steps": given.steps, "one_rank": given.one_rank, "trainings": rows}
            differences = compared(folder, [] if given.one_rank else launches)
            write_json(given.output, {**result, "fsdp_minus_ddp": differences})
    print(json.dumps(json.loads(given.output.read_text())["fsdp_minus_ddp"]))


if __name__ == "__main__":
    main()
