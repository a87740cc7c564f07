"""Zero-shot MMLU of a model and of adapters on it: scores with standard errors, and how long 14,042 questions take.

    python benchmarks/mmlu.py [ADAPTER ...]

Questions from `HYDRALORA_CORPORA`; the embedded base model, in bfloat16 on a GPU. Writes benchmarks/results/mmlu.json.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

import hydralora  # noqa: F401 - makes PEFT know HYDRALORA
from hydralora.base_model import load_base_model
from hydralora.harness import evaluate_benchmarks
from hydralora.run_record import environment

REPOSITORY = Path(__file__).resolve().parent.parent
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", REPOSITORY.parent / "shared" / "corpora"))
RESULTS = REPOSITORY / "benchmarks" / "results" / "mmlu.json"


def measure(adapter: Path | None, device: str, batch_size: int, limit: int | None) -> dict[str, Any]:
    """Scores and seconds of one model; loading it is not counted."""
    model, tokenizer = load_base_model("embedded", device=device, dtype=torch.bfloat16 if device == "cuda" else None)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    started = time.perf_counter()
    scores = evaluate_benchmarks(model, tokenizer, ["mmlu"], corpora=CORPORA, limit=limit, batch_size=batch_size)
    seconds = time.perf_counter() - started
    name = "base" if adapter is None else adapter.name
    print(f"{name}: {scores[0].value:.4f} (standard error {scores[0].stderr}), {seconds:.1f} s", flush=True)
    return {
        "model": name,
        "seconds": round(seconds, 1),
        "scores": [dataclasses.asdict(score) for score in scores],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", type=Path, nargs="*", help="folders of adapters; the base model comes first")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--limit", type=int, help="questions of each subject, for a try")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "environment": environment(),
        "batch_size": arguments.batch_size,
        "limit": arguments.limit,
        "chance": 0.25,
        "models": [],
    }
    for adapter in (None, *arguments.adapters):
        result["models"].append(measure(adapter, arguments.device, arguments.batch_size, arguments.limit))
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
