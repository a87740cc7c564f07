"""The step of `split_speed` with `torch.compile(model, mode="reduce-overhead")`, against PEFT's LoRA without it.

    python benchmarks/method/split_compiled.py --output split_compiled.json

About four minutes on an H200. The mode compiles the model and replays its kernels as CUDA graphs: one line for users of
any training loop. Few layers, because each row compiles anew. Every row also has the difference between compiled and
eager gradients, and the number of graphs that four calls with different gates compiled (1 is right).
"""

import time
from typing import Any

import torch
from layer_baselines import TARGETS, Method, adapted, lora, split
from layer_speed import BATCH, LENGTH, TrainingStep, cuda_seconds
from split_speed import RANK, SHARED_RANK, begin
from torch import Tensor, nn
from torch._dynamo.utils import counters

RANKS = (RANK + SHARED_RANK, RANK + SHARED_RANK + 3)


def rows() -> list[tuple[str, Method, bool]]:
    """Targets, method, and whether to compile; what matters most comes first."""
    found: list[tuple[str, Method, bool]] = []
    for targets in ("all-linear", "q,v"):
        found += [(targets, lora(r), r == RANKS[0]) for r in RANKS]
        found += [(targets, split(n, gates, RANK, SHARED_RANK), True) for n, gates in ((6, "sequence"), (32, "index"))]
    return [*found, *((targets, split(6, "low_rank", RANK, SHARED_RANK), True) for targets in TARGETS)]


def measure(model: nn.Module, table: dict[str, Any], targets: str, method: Method, compiles: bool) -> None:
    """Seconds of a step, launched and, if asked for, compiled."""
    row = table.setdefault(method.name, {})
    with adapted(model, method, TARGETS[targets]):
        step = TrainingStep(model, BATCH, LENGTH)
        row["seconds"] = cuda_seconds(step, step.clear, warmup=3, repeats=10)
        if compiles:
            expected, accumulated = gradients(step), gradients(step, 2)
            torch.compiler.reset()
            counters.clear()
            step.model = torch.compile(model, mode="reduce-overhead", dynamic=False)
            started = time.perf_counter()
            step()
            torch.cuda.synchronize()
            row["compile_seconds"] = time.perf_counter() - started
            step.clear()
            for _ in range(3):
                step.gates = None if step.gates is None else step.gates.flip(0)
                step()
                step.clear()
            step.gates = None if step.gates is None else step.gates.flip(0)
            row["graphs"], row["graph_breaks"] = (
                counters["stats"]["unique_graphs"],
                sum(counters["graph_break"].values()),
            )
            row["compiled_seconds"] = cuda_seconds(step, step.clear, warmup=3, repeats=10)
            row["gradient_difference"] = relative_difference(gradients(step), expected)
            row["accumulated_difference"] = relative_difference(gradients(step, 2), accumulated)
    torch.cuda.empty_cache()
    print(targets, "|", method.name, "|", {k: v for k, v in row.items() if "seconds" not in k}, flush=True)


def gradients(step: TrainingStep, micro_batches: int = 1) -> list[Tensor]:
    """Gradients of one step of some equal micro-batches."""
    for _ in range(micro_batches):
        step()
    found = [p.grad.float().clone() for p in step.model.parameters() if p.grad is not None]
    step.clear()
    return found


def relative_difference(actual: list[Tensor], expected: list[Tensor]) -> float:
    """Norm of the difference over the norm of what is expected."""
    difference = sum(float((a - b).square().sum()) for a, b in zip(actual, expected, strict=True))
    return (difference / sum(float(b.square().sum()) for b in expected)) ** 0.5


def add_ratios(table: dict[str, Any]) -> None:
    """Medians over the eager step of each LoRA."""
    for r in RANKS:
        baseline = table.get(lora(r).name, {}).get("median_seconds")
        for row in table.values() if baseline else ():
            for kind in ("seconds", "compiled_seconds"):
                if kind in row:
                    row[f"{kind}_over_lora_{r}"] = round(row[f"median_{kind}"] / baseline, 4)


def main() -> None:
    started = time.monotonic()
    model, report, budget = begin(__doc__, "split_compiled", 4, 200)
    tables: dict[str, dict[str, Any]] = {targets: {} for targets in TARGETS}
    for targets, method, compiles in rows():
        if time.monotonic() - started > budget:
            break
        report.attempt(targets, tables[targets], measure, model, tables[targets], targets, method, compiles)
        add_ratios(tables[targets])
        report.write()
    for targets, table in tables.items():
        for name, row in table.items():
            print(targets, "|", name, "|", {k: v for k, v in row.items() if "_over_lora_" in k}, flush=True)
    print("errors:", report.tables["errors"], flush=True)


if __name__ == "__main__":
    main()
