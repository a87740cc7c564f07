"""Speed and memory of whole training steps: `hydralora.training` against transformers' Trainer with PEFT and Liger.

    python benchmarks/training/end_to_end_documents.py documents.npz                             # where the corpora are
    python benchmarks/training/end_to_end_speed.py documents.npz --output speed.json             # on one GPU
    python benchmarks/training/end_to_end_speed.py documents.npz --output speed.json --rows "7B mixed: " --profile

LLaMA2-7B's shapes and SmolLM2-135M's with random weights in bfloat16, which cost what trained ones cost; all linear
layers adapted; 8,192 tokens a step in two micro-batches. Each row runs in a process of its own, and the result is
written after each, so that one that fails costs itself alone.

TFLOP/s are counted as 4 for each weight and token of the layers' matrices (forward, and backward to the inputs), real
tokens alone.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from end_to_end_shapes import (
    LEARNING_RATE,
    MICRO_BATCHES,
    TOKENS_PER_STEP,
    Columns,
    Row,
    Tokenizer,
    adapter,
    base_model,
    documents,
    layer_weights,
    speed,
)
from end_to_end_stages import FirstStep, stages
from end_to_end_stock import stock
from transformers import Trainer
from transformers.trainer import DEFAULT_CALLBACKS

from hydralora.base_model import load_base_model
from hydralora.data import TokenisedDocuments
from hydralora.evaluation import paired_bootstrap
from hydralora.training import RunOptions, TrainingConfig, plan_run, train
from hydralora.training.outputs.record import environment, write_json

ROWS = (
    Row("7B mixed: stock LoRA r=8 + Liger", "stock"),
    Row("7B mixed: ours split N=6, packed", "ours", "split"),
    Row("7B full: ours split N=6", "ours", "split", full=True),
    Row("7B full: stock LoRA r=8 + Liger", "stock", full=True, batch=1),
    Row("7B mixed: ours LoRA r=16 (our layer), packed", "ours", "one", r=16),
    Row("7B mixed: ours HydraLoRA N=3, packed", "ours", "hydra"),
    Row("7B mixed: ours LoRA r=16 (PEFT's layer), packed", "ours", "lora", r=16),
    Row("7B mixed: ours split N=6, padded", "ours", "split", packing=False),
    Row("7B mixed: ours split N=6, packed, without Liger", "ours", "split", liger=False),
    Row("7B mixed: stock LoRA r=8", "stock", liger=False),
    Row("7B full: ours LoRA r=16 (our layer)", "ours", "one", r=16, full=True),
    Row("7B mixed: ours LoRA r=38 (our layer), packed", "ours", "one", r=38),  # as many parameters as the split
    Row("7B mixed: ours split N=6, packed, one micro-batch", "ours", "split", micro_batches=1),
    Row("7B mixed: ours split N=6, packed, graphs", "ours", "split", graphs=True),
    Row("7B full: ours split N=6, graphs", "ours", "split", full=True, graphs=True),
    Row("135M mixed: stock LoRA r=8 + Liger", "stock", size="135M"),
    Row(
        "135M mixed: ours HydraLoRA N=3, padded, without Liger",
        "ours",
        "hydra",
        size="135M",
        packing=False,
        liger=False,
    ),
    Row("135M mixed: ours HydraLoRA N=3, packed", "ours", "hydra", size="135M"),
    Row("135M mixed: ours split N=6, packed", "ours", "split", size="135M"),
    Row("135M mixed: ours split N=6, packed, one micro-batch", "ours", "split", size="135M", micro_batches=1),
    Row("135M mixed: ours split N=6, packed, graphs", "ours", "split", size="135M", graphs=True),
    Row(
        "135M mixed: ours split N=6, graphs, one micro-batch",
        "ours",
        "split",
        size="135M",
        micro_batches=1,
        graphs=True,
    ),
    Row("135M mixed: ours split N=6, graphs, without Liger", "ours", "split", size="135M", liger=False, graphs=True),
    Row(
        "135M mixed: ours HydraLoRA N=3, graphs, one micro-batch",
        "ours",
        "hydra",
        size="135M",
        micro_batches=1,
        graphs=True,
    ),
    Row(
        "135M mixed: ours LoRA r=16, graphs, one micro-batch",
        "ours",
        "one",
        r=16,
        size="135M",
        micro_batches=1,
        graphs=True,
    ),
    Row(
        "135M mixed: ours split N=6, graphs auto, one micro-batch",
        "ours",
        "split",
        size="135M",
        micro_batches=1,
        graphs="auto",
    ),
    Row("7B mixed: ours split N=6, packed, graphs auto", "ours", "split", graphs="auto"),
    Row("7B full: ours split N=6, graphs auto", "ours", "split", full=True, graphs="auto"),
    Row("7B full: ours split N=6, checkpointing", "ours", "split", full=True, checkpointing=True),
    Row("7B full: ours split N=6, offloading", "ours", "split", full=True, offloading=True),
    Row(
        "7B full: ours split N=6, checkpointing and offloading",
        "ours",
        "split",
        full=True,
        checkpointing=True,
        offloading=True,
    ),
    Row("losses: fast steps against plain ones", "losses", "split", size="embedded"),
)


def ours(row: Row, path: Path, steps: int) -> dict[str, Any]:
    data = documents(path, row.full, with_gates=row.adapter == "split")
    fields = {field.name for field in dataclasses.fields(TrainingConfig)}
    options = {"packing": row.packing and "auto", "fused_kernels": row.liger and "auto", "cuda_graphs": row.graphs}
    config = TrainingConfig(
        max_steps=steps,
        tokens_per_step=TOKENS_PER_STEP,
        gradient_accumulation_steps=row.micro_batches,
        save_steps=1000,
        learning_rate=LEARNING_RATE,
        gradient_checkpointing=row.checkpointing,
        activation_offloading=row.offloading,
        **{name: value for name, value in options.items() if name in fields},
    )
    model = base_model(row.size)
    weights = layer_weights(model)
    with tempfile.TemporaryDirectory() as folder, stages() as stamps:
        started = time.monotonic()
        result = train(
            model,
            Tokenizer(),  # type: ignore[arg-type]
            data,
            Path(folder),
            config,
            peft_config=adapter(row),
        )
        total = time.monotonic() - started
        curve = [json.loads(line) for line in (Path(folder) / "curve.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in curve]
    tokens = plan_run(data, config).tokens_of_step
    record = result.record
    return {
        **speed(seconds, tokens.tolist(), weights),
        "padding": record["padding_share"],
        "packing": record.get("packing"),
        "fused_modules": record.get("fused_modules"),
        "cuda_graphs": record.get("cuda_graphs"),
        "memory": record.get("memory"),
        "data_wait_share": record.get("data_wait_share"),
        "first_step_s": seconds[0],
        "to_first_step_s": round(stamps["first step"] - started, 2),  # of a loaded base model
        "stages_s": {name: round(stamp - started, 2) for name, stamp in stamps.items()},
        "around_the_steps_s": round(total - record["seconds"], 2),
        "losses": [line["loss"] for line in curve],
        "trainable": record["parameters"]["trainable"],
    }


def losses(row: Row, path: Path, steps: int) -> dict[str, Any]:
    """Held-out losses after fast steps (packed, Liger, graphs, one micro-batch) and after plain ones, for each seed.

    Two plain runs with one seed show what rounding alone does.
    """
    data = documents(path, False, with_gates=row.adapter == "split")
    order = np.random.default_rng(0).permutation(len(data))
    held_out, training = (
        TokenisedDocuments(Columns(data.dataset[part.tolist()]), "plain", 384, 0, 0, 0)  # type: ignore[arg-type]
        for part in (order[:480], order[480:])
    )
    plain = {"packing": False, "fused_kernels": False, "cuda_graphs": False}
    fast = {"gradient_accumulation_steps": 1, "cuda_graphs": "auto"}
    found: list[dict[str, Any]] = []

    def after(seed: int, options: dict[str, Any]) -> Any:
        common = {
            "gradient_accumulation_steps": MICRO_BATCHES,
            "tokens_per_step": TOKENS_PER_STEP,
            "save_steps": 10_000,
        }
        config = TrainingConfig(**{"max_steps": steps, "seed": seed, **common, **options})
        model = load_base_model("embedded")[0] if row.size == "embedded" else base_model(row.size)
        with tempfile.TemporaryDirectory() as folder:
            result = train(
                model,
                Tokenizer(),
                training,
                Path(folder),
                config,
                peft_config=adapter(row),  # type: ignore[arg-type]
                options=RunOptions(held_out=held_out),
            )
        print(seed, options, result.record["seconds"], result.record["cuda_graphs"], flush=True)
        return result.held_out_after

    for seed in range(3):
        reference = after(seed, plain)
        runs = {"fast": fast, "plain again": plain} if seed == 0 else {"fast": fast}
        for name, options in runs.items():
            paired = paired_bootstrap(after(seed, options), reference)
            found.append({"run": name, "seed": seed, "plain": reference.mean, **dataclasses.asdict(paired)})
    return {"held_out": found}


def profiled(row: Row, path: Path, steps: int) -> dict[str, Any]:
    """The kernels that take most of the time, in the steps after the first."""
    from torch.profiler import ProfilerActivity, profile, schedule

    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    watched = profile(activities=activities, schedule=schedule(wait=10, warmup=1, active=2))
    step = Trainer._maybe_log_save_evaluate

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        result = step(self, *arguments, **options)
        watched.step()
        return result

    Trainer._maybe_log_save_evaluate = counted  # type: ignore[method-assign]
    with watched:
        values = {"stock": stock, "ours": ours}[row.kind](row, path, steps)
    for key in ("self_cuda_time_total", "self_cpu_time_total"):
        table = watched.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=80)
        print(row.name, key, table, sep="\n", flush=True)
    return values


def work(path: Path, profile: bool, orders: Any, result: Any) -> None:
    """A row, in its own process."""
    DEFAULT_CALLBACKS.append(FirstStep)
    row, steps, compiled = orders.recv()
    if compiled is not None:
        os.environ["TRITON_CACHE_DIR"] = compiled
    try:
        run = {"stock": stock, "ours": ours, "losses": losses}[row.kind]
        values = profiled(row, path, steps) if profile and row.kind != "losses" else run(row, path, steps)
        if torch.cuda.is_available():
            values["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            values["environment"] = environment()  # not in the parent, where asking would start CUDA
            values["reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    except Exception as error:
        traceback.print_exc()
        values = {"error": f"{type(error).__name__}: {error}"[:400]}
    result.send(values)


class Worker:
    """A process for one row. It imports everything while the row before it is still measured."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")  # importing Liger starts CUDA
        orders, self._orders = context.Pipe(duplex=False)
        self._result, result = context.Pipe(duplex=False)
        self._process = context.Process(target=work, args=(arguments.documents, arguments.profile, orders, result))
        self._process.start()
        orders.close()
        result.close()

    def measure(self, row: Row, steps: int, compiled: str | None, limit: float) -> dict[str, Any]:
        """Run a row, with its compiled kernels in the folder `compiled`."""
        started = time.monotonic()
        self._orders.send((row, steps, compiled))
        try:
            values = self._result.recv() if self._result.poll(limit) else {"error": f"over {limit} s"}
        except EOFError:
            values = {"error": "the process died"}
        self.end()
        return {**dataclasses.asdict(row), **values, "wall_s": round(time.monotonic() - started, 1)}

    def end(self) -> None:
        """End the process; one without a row at once."""
        self._orders.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--rows",
        default="",
        help="only rows with this in their name, or with this name if it ends in $; several, in order, separated by |",
    )
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--limit", type=float, default=150, help="seconds for a row")
    parser.add_argument("--budget", type=float, default=560, help="seconds after which no row begins")
    parser.add_argument("--profile", action="store_true", help="print the kernels that take most of the time")
    parser.add_argument("--size", help="another size for all rows, to try the script")
    parser.add_argument(
        "--cold",
        action="store_true",
        help="each row twice: with no kernel compiled before, and with those of the first time",
    )
    arguments = parser.parse_args()
    started, results, machine = time.monotonic(), [], None
    parts = arguments.rows.split("|")
    wanted = list(dict.fromkeys(r for part in parts for r in ROWS if part in r.name or part == f"{r.name}$"))
    planned = [(row, kernels) for row in wanted for kernels in ("cold", "warm")[: 1 + arguments.cold]]
    compiled = tempfile.TemporaryDirectory()
    worker = Worker(arguments)
    for number, (row, kernels) in enumerate(planned, start=1):
        current = worker
        if time.monotonic() - started > arguments.budget:
            print(f"no time left for {row.name}", file=sys.stderr)
            continue
        if number < len(planned):
            worker = Worker(arguments)
        steps = arguments.steps * (4 if row.kind == "losses" else 1)
        folder = f"{compiled.name}/{(number - 1) // 2}" if arguments.cold else None
        row = dataclasses.replace(row, size=arguments.size or row.size)
        values = current.measure(row, steps, folder, arguments.limit)
        if arguments.cold:
            values["kernels"] = kernels
        machine = values.pop("environment", machine)
        results.append(values)
        shown = (
            "name",
            "tokens_per_second",
            "tflops",
            "padding",
            "peak_gib",
            "kernels",
            "to_first_step_s",
            "stages_s",
            "data_wait_share",
            "cuda_graphs",
            "held_out",
            "error",
            "wall_s",
        )
        print(json.dumps({name: results[-1][name] for name in shown if name in results[-1]}), flush=True)
        write_json(arguments.output, {"environment": machine, "steps": arguments.steps, "rows": results})
    worker.end()


if __name__ == "__main__":
    main()
