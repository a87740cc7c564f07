"""The runs of the first study of experts, measured again: by corpus and by token, with tasks resampled too.

    python benchmarks/studies/experts_earlier.py MIXES benchmarks/results/study_experts_runs.jsonl \
        benchmarks/results/experts_earlier.json

MIXES is the folder of experts_data.py; its mix "six" holds the documents of that study in the same order.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from experts_mix import Mix
from experts_summary import METRICS, Floats, Measure, difference_row, resampled_documents
from study_runs import unpack

from hydralora.training.outputs.record import write_json

BASELINES = (("lora", "router"), ("lora_plus", "router"))


def measured(mix: Mix, runs: Path) -> dict[str, Any]:
    """Each family under each of its gates, minus the LoRA at one rate and the LoRA at LoRA+ rates."""
    documents = mix.indices("test")
    measure = Measure(mix, documents, resampled_documents(mix, documents))
    losses: dict[tuple[str, str], dict[int, Floats]] = {}
    for line in runs.read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "final":
            for gates, packed in record["document_losses"].items():
                losses.setdefault((record["family"], gates), {})[record["seed"]] = unpack(packed).astype(float)
    rows: dict[str, Any] = {}
    for key, of_seed in losses.items():
        point = measure.point(np.mean(list(of_seed.values()), axis=0))
        row: dict[str, Any] = {"seeds": sorted(of_seed), "loss": point}
        for baseline in BASELINES:
            if key == baseline:
                continue
            seeds = sorted(set(of_seed) & set(losses[baseline]))
            difference = np.array([of_seed[seed] - losses[baseline][seed] for seed in seeds])
            row[f"minus_{baseline[0]}"] = difference_row(difference, measure)
        rows[f"{key[0]}, gates {key[1]}"] = row
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("mixes", "runs", "output"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    rows = measured(Mix.load(arguments.mixes / "six.npz"), arguments.runs)
    write_json(arguments.output, rows)
    for name, row in rows.items():
        shown = [f"{metric} {row['loss'][metric]:.4f}" for metric in METRICS]
        for baseline, _ in BASELINES:
            if minus := row.get(f"minus_{baseline}"):
                shown += ["minus {} {} {:+.4f} [{:+.4f}, {:+.4f}]".format(baseline, m, *minus[m]) for m in METRICS]
        print(name, "; ".join(shown))


if __name__ == "__main__":
    main()
