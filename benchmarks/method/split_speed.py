"""Speed and memory of experts beside an always-on LoRA, against PEFT's LoRA of the same rank (LLaMA2-7B, bf16, a GPU).

    python benchmarks/method/split_speed.py --output split_speed.json

About four minutes on an H100. A training step (2,048 tokens, forward and backward) on q,v and on all linear layers:
launched from Python, replayed from a CUDA graph (device time without launches), and its peak memory; and what gates of
each token cost over gates of each sequence. Every part is written as soon as it is measured, so what is there counts
even if a later part fails. Ratios are within one table, of medians over rounds that go forwards and backwards.
"""

import argparse
import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from layer_baselines import TARGETS, Method, adapted, frozen_base, lora, split
from layer_speed import (
    BATCH,
    LENGTH,
    LLAMA2_7B,
    SMOLLM2_135M,
    TrainingStep,
    build,
    capture,
    cuda_seconds,
    environment,
    measure_step,
    with_ratios,
)
from torch import nn

RANK, SHARED_RANK = 3, 16
BASELINE = f"PEFT LoRA r={RANK + SHARED_RANK}"
Rows = dict[str, Any]


def methods() -> list[Method]:
    """The baseline stands among the others, so that drift of the host meets all alike."""
    ours = [split(n, gates, RANK, SHARED_RANK) for n in (6, 32) for gates in ("sequence", "token", "index")]
    return [frozen_base(), *ours[:3], lora(RANK + SHARED_RANK), *ours[3:], split(6, "low_rank", RANK, SHARED_RANK)]


def measure_launched(model: nn.Module, rows: Rows, method: Method, targets: str) -> None:
    """Seconds of steps launched from Python, seconds until launches returned, and peak memory."""
    row = rows.setdefault(method.name, {"seconds": [], "host_seconds": []})
    measure_step(model, row, method, targets, repeats=4)
    torch.cuda.empty_cache()


def measure_graph(model: nn.Module, rows: Rows, method: Method, targets: str) -> None:
    """Seconds of a step that is replayed from a CUDA graph."""
    row = rows.setdefault(method.name, {"seconds": []})
    with adapted(model, method, TARGETS[targets]):
        step = TrainingStep(model, BATCH, LENGTH)
        replay = capture(step, step.clear)
        row["seconds"] += cuda_seconds(replay, warmup=2, repeats=6)
        del replay
        step.clear()
    torch.cuda.empty_cache()


def measure_host(rows: Rows, rounds: int) -> None:
    """Seconds of a step of a small model, where launches are all that takes time: the same calls from Python."""
    model = build("cuda", torch.bfloat16, **SMOLLM2_135M)
    order = methods()
    for turn in range(rounds):
        for method in order[:: 1 if turn % 2 == 0 else -1]:
            row = rows.setdefault(method.name, {"seconds": []})
            with adapted(model, method, TARGETS["all-linear"]):
                step = TrainingStep(model, 1, 64)
                row["seconds"] += cuda_seconds(step, step.clear, warmup=3, repeats=10)
                step.clear()


def over_baseline(rows: Rows) -> Rows:
    """Medians, and their ratios to the baseline."""
    with_ratios(rows)
    baseline = rows.get(BASELINE, {})
    for row in rows.values():
        for key in ("median_seconds", "median_host_seconds", "peak_above_weights_gib"):
            if key in row and key in baseline:
                row[f"{key}_over_baseline"] = round(row[key] / baseline[key], 4)
    return rows


class Report:
    """The results so far, on disk after each part."""

    def __init__(self, path: Path) -> None:
        self.path, self.tables = path, {"environment": environment("cuda"), "baseline": BASELINE, "errors": {}}

    def write(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.tables, indent=1) + "\n")
        os.replace(temporary, self.path)

    def attempt(self, name: str, rows: Rows, call: Any, *arguments: Any) -> None:
        """A part that fails is noted, and the next goes on."""
        try:
            call(*arguments)
        except Exception as error:
            self.tables["errors"][f"{name}: {type(error).__name__}"] = traceback.format_exc()[-2000:]
            torch.cuda.empty_cache()
        self.tables[name] = over_baseline(rows)
        self.write()


def begin(description: str | None, name: str, layers: int, budget: float) -> tuple[nn.Module, Report, float]:
    """Read the command line; the model of 7B shapes, the report, and the seconds after which nothing new starts."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results" / f"{name}.json")
    parser.add_argument("--layers", type=int, default=layers, help="of the base model")
    parser.add_argument("--budget", type=float, default=budget, help="seconds, after which nothing new starts")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("expected a CUDA device, got none")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    model = build("cuda", torch.bfloat16, **{**LLAMA2_7B, "num_hidden_layers": arguments.layers})
    return model, Report(arguments.output), arguments.budget


def main() -> None:
    started = time.monotonic()
    model, report, budget = begin(__doc__, "split_speed", 32, 220)
    tables: dict[str, Rows] = {}
    for turn in range(6):
        for kind, measure in (("launched", measure_launched), ("graph", measure_graph)):
            for targets in ("all-linear", "q,v"):
                for method in methods()[:: 1 if turn % 2 == 0 else -1]:
                    if turn and time.monotonic() - started > budget:
                        break
                    name = f"{kind}, {targets}"
                    rows = tables.setdefault(name, {})
                    report.attempt(name, rows, measure, model, rows, method, targets)
                print(f"{time.monotonic() - started:.0f} s: {kind}, {targets}, round {turn}", flush=True)
        if turn == 0:
            rows = {}
            report.attempt("launches of a small model", rows, measure_host, rows, 4)
        if time.monotonic() - started > budget:
            break
    for name, rows in report.tables.items():
        for method, row in rows.items() if isinstance(rows, dict) else ():
            if isinstance(row, dict):
                print(
                    name, "|", method, "|", {k: v for k, v in row.items() if k.endswith("_over_baseline")}, flush=True
                )
    print("errors:", list(report.tables["errors"]), flush=True)


if __name__ == "__main__":
    main()
