"""Whether the longest row that a run tells before its first step is true, at LLaMA2-7B's shapes on one GPU.

    python benchmarks/training/end_to_end_documents.py documents.npz                       # where the corpora are
    python benchmarks/training/longest_row.py documents.npz --output longest_row.json      # on one GPU

For each way to keep activations: a step of a short row tells the longest row L, then a step of a row of 0.95 L must
fit and one of 1.1 L must not. With checkpointing a run gets a third of the GPU's memory: longer rows take minutes.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from end_to_end_shapes import Row, Tokenizer, adapter, base_model, documents

from hydralora.training import TrainingConfig, TrainingError, train
from hydralora.training.outputs.record import environment, write_json
from hydralora.training.step import memory

SHORT = 4096
WAYS: dict[str, tuple[dict[str, bool], float]] = {
    "plain": ({}, 1.0),
    "checkpointing": ({"gradient_checkpointing": True}, 0.33),
    "checkpointing and offloading": ({"gradient_checkpointing": True, "activation_offloading": True}, 0.33),
}


def step(model: Any, data: Any, row: int, options: dict[str, bool]) -> tuple[Any, dict[str, Any]]:
    """A training of one step with one row of so many tokens; what it measured, or its error."""
    torch.cuda.reset_peak_memory_stats()
    config = TrainingConfig(
        max_steps=1, tokens_per_step=row, gradient_accumulation_steps=1, cuda_graphs=False, **options
    )
    kind = Row("", "ours", "split")
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = train(model, Tokenizer(), data, Path(folder), config, peft_config=adapter(kind))  # type: ignore[arg-type]
        except TrainingError as error:
            return None, {"row": row, "fits": False, "error": str(error)[:80]}
    values = {"row": row, "fits": True, "seconds": result.record["seconds"], "memory": result.record["memory"]}
    return result.model.unload(), values  # type: ignore[operator]


def work(path: Path, way: str, size: str, result: Any) -> None:
    """A short row, then rows of a share of the longest one that was told, in a process of its own."""
    options, share = WAYS[way]
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share)
        memory._USABLE *= share
    data, model, told = documents(path, False, with_gates=True), base_model(size), 0
    for share_of_told in (None, 0.95, 1.1):
        row = SHORT if share_of_told is None else int(share_of_told * told)
        model, values = step(model, data, row, options)
        if share_of_told is None:
            told = values["memory"]["estimate"]["longest_row"]
        result.send({"way": way, "share_of_gpu": share, "share_of_told": share_of_told, **values})
        if model is None:
            break
    result.send(environment())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=100, help="seconds for a process")
    parser.add_argument("--budget", type=float, default=560, help="seconds after which no process begins")
    parser.add_argument("--size", default="7B")
    arguments = parser.parse_args()
    context, started = multiprocessing.get_context("spawn"), time.monotonic()
    found: list[dict[str, Any]] = []
    machine = None
    for way in WAYS:
        if time.monotonic() - started > arguments.budget:
            continue
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(arguments.documents, way, arguments.size, sender))
        process.start()
        sender.close()
        until = time.monotonic() + arguments.limit
        try:
            while receiver.poll(max(0.0, until - time.monotonic())):
                values = receiver.recv()
                if "way" not in values:
                    machine = values
                    break
                found.append(values)
                print(json.dumps(values), flush=True)
                write_json(arguments.output, {"environment": machine, "rows": found})
        except EOFError:
            pass
        process.kill()
        process.join()
    write_json(arguments.output, {"environment": machine, "rows": found})


if __name__ == "__main__":
    main()
