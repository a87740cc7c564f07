"""Speed of the quickstart's trainings on a CPU, at this commit against an earlier one: alternating processes.

    git worktree add --detach EARLIER COMMIT
    python benchmarks/training/cpu_training.py documents.parquet EARLIER --output cpu_training.json

`documents.parquet` is that of the quickstart's asset `corpus_documents`. Each process trains one method for some steps
with the quickstart's settings. Seconds of CPU are compared too, because they depend less on what else runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TRAINING = """
import json, sys
from pathlib import Path
import polars, torch
from hydralora.base_model import load_base_model
from hydralora.data import tokenise
import hydralora.methods
from hydralora.training import TrainingConfig
from hydralora.training.run import train_method
documents, method, steps, threads, folder = sys.argv[1:]
torch.set_num_threads(int(threads))
rows = polars.read_parquet(documents).filter(polars.col("split") == "train").head(600)
model, tokenizer = load_base_model("embedded")
tokens = tokenise(rows.select("prompt", "completion", "source").to_dicts(), tokenizer, template="plain", max_length=256)
modules = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Settings = getattr(hydralora.methods, "MethodConfig", None) or hydralora.methods.Settings  # an earlier name
settings = Settings(num_experts=3, target_modules=modules, layers_to_transform=tuple(range(20, 30)))
config = TrainingConfig(max_steps=int(steps), tokens_per_step=1024, gradient_accumulation_steps=4, learning_rate=0.003)
result = train_method(method, settings, model, tokenizer, tokens, Path(folder), config)
record = {name: result.record[name] for name in ("tokens", "seconds", "cpu_seconds")}
losses = [json.loads(line)["loss"] for line in (Path(folder) / "curve.jsonl").read_text().splitlines()]
print(json.dumps({**record, "losses": losses}))
"""


def trained(tree: Path, arguments: argparse.Namespace, method: str) -> dict[str, Any]:
    """What a training with the code of a tree took."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryDirectory() as folder:
        given = [str(arguments.documents.resolve()), method, str(arguments.steps), str(arguments.threads), folder]
        command = [sys.executable, "-c", TRAINING, *given]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    values["cpu_per_token_ms"] = round(1000 * values["cpu_seconds"] / values["tokens"], 4)
    values["tokens_per_second"] = round(values["tokens"] / values["seconds"], 1)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("earlier", type=Path, help="a working tree of the earlier commit")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["hydralora", "lora_r8"])
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    trees = {"now": Path(__file__).parents[2], "earlier": arguments.earlier.resolve()}
    rows: list[dict[str, Any]] = []
    for number in range(arguments.pairs):
        for method in arguments.methods:
            for tree in sorted(trees, reverse=number % 2 == 1):
                rows.append({"pair": number, "method": method, "tree": tree, **trained(trees[tree], arguments, method)})
                print(json.dumps(rows[-1]), flush=True)
    found = {method: ratios([row for row in rows if row["method"] == method]) for method in arguments.methods}
    print(json.dumps(found))
    arguments.output.write_text(json.dumps({"threads": arguments.threads, "ratios": found, "rows": rows}, indent=2))


def ratios(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Speed now over earlier, by pair: by wall time and by CPU time."""
    pairs = [{row["tree"]: row for row in rows if row["pair"] == pair} for pair in {row["pair"] for row in rows}]
    wall = [pair["now"]["tokens_per_second"] / pair["earlier"]["tokens_per_second"] for pair in pairs]
    cpu = [pair["earlier"]["cpu_per_token_ms"] / pair["now"]["cpu_per_token_ms"] for pair in pairs]
    return {
        name: {"median": round(statistics.median(values), 3), "pairs": [round(value, 3) for value in values]}
        for name, values in (("wall", wall), ("cpu", cpu))
    }


if __name__ == "__main__":
    main()
