"""What the study of mixtures found: test losses of each arm, and whether a job for the search is due.

python benchmarks/studies/mixing_summary.py STATE benchmarks/results/mixing_study.json
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mixing_data import NAMES, PROXY
from mixing_study import ARMS, HELD_OUT, Floats, Plan, Records, losses, objective, sizes, token_weights
from run_records import read_records
from study_data import Ints, StudyData
from study_runs import unpack

from hydralora.training.outputs.record import write_json

NUM_RESAMPLES = 4000


def summary(state: Path, records: Records) -> dict[str, Any]:
    """Test losses of each arm and their differences from "proportional", with intervals; what the search found."""
    found: dict[str, Any] = {
        "command": "python benchmarks/studies/mixing_data.py, mixing_study.py, mixing_summary.py (see there)"
    }
    found |= {"gpu": sorted({r["gpu"] for r in records.values()}), "runs": len(records), "mixes": {}}
    plan = Plan(state / "mixes")
    for mix, data in plan.data.items():
        rate = next((run.rate for run in plan.arms(mix, records)), None)
        arms: dict[str, dict[int, Mapping[str, Any]]] = {}
        for record in records.values():
            if record["mix"] == mix and record["rate"] == rate:
                arms.setdefault(record["arm"], {})[record["seed"]] = record
        proxies = [r for r in records.values() if r["mix"] == f"{mix}{PROXY}"]
        found["mixes"][mix] = {
            "corpora": NAMES[mix],
            "training_documents": sizes(data).tolist(),
            "token_weights": token_weights(data).tolist(),
            "training_tokens": int(data.lengths[data.parts == "train"].sum()),
            "rate": rate,
            "trials": {f"{run.rate:g}": records[run.key]["loss"][""]["validation"] for run in plan.trials(mix)},
            "arms": {name: _arm(data, arms[name], arms["proportional"]) for name in ARMS if name in arms},
            "proxies": [{"shares": r["shares"], "round": r["arm"], **r["loss"][""]["validation"]} for r in proxies],
            "proxy_tokens": sum(r["tokens"] for r in proxies),
        }
    return found | {"verdict": verdict(found["mixes"])}


def verdict(mixes: Mapping[str, Any]) -> dict[str, Any]:
    """Which arms have less of both test losses than "proportional" on all mixes, and what was decided to follow."""
    better = [
        name
        for name in ARMS[1:]
        if all(
            name in of["arms"] and of["arms"][name]["minus_proportional"][loss][2] < 0
            for of in mixes.values()
            for loss in ("macro", "token")
        )
    ]
    seeds = {mix: {name: len(arm["seeds"]) for name, arm in of["arms"].items()} for mix, of in mixes.items()}
    return {"better_than_proportional": better, "build_the_job": better == ["searched"], "seeds": seeds}


def _arm(data: StudyData, runs: Mapping[int, Any], base: Mapping[int, Any]) -> dict[str, Any]:
    seeds = sorted(runs.keys() & base.keys())
    held_out = np.flatnonzero(np.isin(data.parts, HELD_OUT))
    own, other = (np.array([unpack(of[s]["document_losses"]) for s in seeds], float) for of in (runs, base))
    return {
        "shares": runs[seeds[0]]["shares"],
        "seeds": seeds,
        "validation_objective": float(np.mean([objective(runs[s]) for s in seeds])),
        "test": losses(data, held_out, own.mean(0), "test"),
        "minus_proportional": differences(data, held_out, own - other),
    }


def differences(data: StudyData, held_out: Ints, change: Floats) -> dict[str, list[float]]:
    """Differences of the test losses, with 95% intervals: seeds, and documents of each corpus, are resampled.

    `change` [seeds, held-out documents]: summed losses of an arm minus those of the other.
    """
    random = np.random.default_rng(0)
    drawn = random.multinomial(len(change), np.full(len(change), 1 / len(change)), NUM_RESAMPLES) / len(change)
    counts = (data.lengths - data.answer_starts)[held_out].astype(float)
    point, spread = [], []
    for source in range(int(data.sources.max()) + 1):
        rows = np.flatnonzero((data.sources[held_out] == source) & (data.parts[held_out] == "test"))
        times = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), NUM_RESAMPLES)
        point.append(change.mean(0)[rows].sum() / counts[rows].sum())
        spread.append(((drawn @ change[:, rows]) * times).sum(1) / (times @ counts[rows]))
    weights = {"macro": np.full(len(point), 1 / len(point)), "token": token_weights(data)}
    weights["mean"] = (weights["macro"] + weights["token"]) / 2
    return {
        name: [float(np.array(point) @ w), *np.quantile(w @ np.array(spread), [0.025, 0.975]).tolist()]
        for name, w in weights.items()
    }


def table(mixes: Mapping[str, Any]) -> str:
    """Test losses and their differences from "proportional", in Markdown."""
    lines = ["| mix | arm | seeds | macro | minus proportional | token | minus proportional |", "|" + "---|" * 7]
    for mix, of in mixes.items():
        for name, arm in of["arms"].items():
            cells = [mix, name, str(len(arm["seeds"]))]
            for loss in ("macro", "token"):
                change = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*arm["minus_proportional"][loss])
                cells += [f"{arm['test'][loss]:.4f}", "" if name == ARMS[0] else change]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    found = summary(arguments.state, read_records(arguments.state / "runs.jsonl"))
    write_json(arguments.output, found)
    print(table(found["mixes"]), json.dumps(found["verdict"]), sep="\n\n")


if __name__ == "__main__":
    main()
