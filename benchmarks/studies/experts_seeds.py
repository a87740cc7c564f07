"""Differences between two arms, seed by seed, where only the means of each run are left.

    python benchmarks/studies/experts_seeds.py STUDY.json SEEDS.json

A machine was lost with 90 runs on it. Their logs have macro and token of each part, with four digits, and no loss of a
document (benchmarks/results/experts_study_runs/means_of_seeds.jsonl). The variance of a mean over n seeds is that of
the seeds / n, plus that of documents and tasks, which the other runs tell for the first test documents
(`experts_summary._power`). The interval is 1.96 standard deviations to each side, or for seeds alone Student's.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from run_records import read_records
from scipy.stats import t

from hydralora.training.outputs.record import write_json

RUNS = Path(__file__).parents[1] / "results" / "experts_study_runs"
METRICS = ("macro", "token")
PARTS = ("validation", "test", "more")
PAIRS = (
    ("six", "split by joint lr=0.0012", "lora lr=0.001"),
    ("exams", "split by joint ratio=1 lr=0.0016", "lora ratio=1 lr=0.0016"),
)


def compared(mix: str, arm: str, lora: str, documents: dict[str, float]) -> dict[str, Any]:
    """Mean difference of each part and metric with its intervals; `documents`: their standard deviation."""
    runs: dict[str, dict[int, Any]] = {arm: {}, lora: {}}
    for record in (read_records(RUNS / "means_of_seeds.jsonl") | read_records(RUNS / f"whole_{mix}.jsonl")).values():
        if record["mix"] == mix and record["arm"] in runs:
            runs[record["arm"]][record["seed"]] = next(iter(record["loss"].values()))
    seeds = sorted(set(runs[arm]) & set(runs[lora]))
    found: dict[str, Any] = {"seeds": seeds}
    for part in PARTS:
        for metric in METRICS:
            of = np.array([runs[arm][seed][part][metric] - runs[lora][seed][part][metric] for seed in seeds])
            error = of.std(ddof=1) / len(seeds) ** 0.5
            of_seeds, of_all = t.ppf(0.975, len(seeds) - 1) * error, 1.96 * (error**2 + documents[metric] ** 2) ** 0.5
            mean = float(of.mean())
            found[f"{part} {metric}"] = {
                "mean": mean,
                "seeds": [mean - of_seeds, mean + of_seeds],
                "seeds and documents": [mean - of_all, mean + of_all],
                "of_seed": of.round(4).tolist(),
            }
    return found


def main() -> None:
    summary = json.loads(Path(sys.argv[1]).read_text())["mixes"]
    rows = {}
    for mix, arm, lora in PAIRS:
        power = summary[mix]["rows"]["first"][arm]["minus_lora"]["power"]
        documents = {metric: power[metric]["sd_of_documents"] for metric in METRICS}
        rows[f"{mix}: {arm} minus {lora}"] = compared(mix, arm, lora, documents) | {"sd_of_documents": documents}
    write_json(Path(sys.argv[2]), rows)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
