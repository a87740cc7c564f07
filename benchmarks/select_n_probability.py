"""Is the probability of one part calibrated? Fitted on half of the single tasks and splits, read on the rest.

    python benchmarks/select_n_probability.py

reads benchmarks/results/select_n_splits.json, prints the fit and its reliability, and writes select_n_probability.json.
One part and several count alike. Corpora that the answer calls too small are left out, and counted.
"""

import json
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from analysis.clusters.choice.structure import MIDPOINT, MIN_DOCUMENTS, MIN_WORDS, SLOPE
from hydralora.training.outputs.record import write_json

RESULTS = Path(__file__).parent / "results"
RATIOS = ("1:1", "10:1")
BEFORE = (9.6, 0.99)  # set on development corpora alone
EDGES = (0.0, 0.1, 0.5, 0.9, 1.0)

Floats = NDArray[np.float64]


def main() -> None:
    found = json.loads((RESULTS / "select_n_splits.json").read_text())
    single = [r for r in found["one task"] if r["pool"] != "development: one legal task"]
    large = [r for r in single if r["words"] >= MIN_WORDS and r["documents"] >= MIN_DOCUMENTS]
    mixes = {ratio: found[f"40 splits, data sets, {ratio}"] for ratio in RATIOS}
    one = [[r for r in large if zlib.crc32(r["name"].encode()) % 2 == half] for half in (0, 1)]
    several = {ratio: [[r for r in rows if r["split"] % 2 == half] for half in (0, 1)] for ratio, rows in mixes.items()}
    odd = [one[1], several["1:1"][1] + several["10:1"][1]]
    fit = minimize(_loss, BEFORE, (_strengths(odd),), bounds=((1, 40), (0.5, 2)))
    result = {
        "fitted_on_odd": {name: float(v) for name, v in zip(("slope", "midpoint"), fit.x, strict=True)},
        "too_small": len(single) - len(large),
        "even_half": {
            ratio: {
                name: _measured(parameters, _strengths([one[0], several[ratio][0]]))
                for name, parameters in (("in the product", (SLOPE, MIDPOINT)), ("before", BEFORE))
            }
            for ratio in RATIOS
        },
    }
    write_json(RESULTS / "select_n_probability.json", result)
    print(json.dumps(result, indent=1))


def probability(parameters: Any, strength: Floats) -> Floats:
    """Of one part: logistic in the strength."""
    slope, midpoint = parameters
    return np.asarray(1 / (1 + np.exp(np.clip(slope * (strength - midpoint), -700, 700))))


def _strengths(halves: list[list[dict[str, Any]]]) -> tuple[Floats, Floats]:
    one, several = (np.array([row["strength"] for row in rows]) for rows in halves)
    return one, several


def _loss(parameters: Any, strengths: tuple[Floats, Floats]) -> float:
    one, several = (probability(parameters, values) for values in strengths)
    tiny = 1e-12
    return float(-np.log(one + tiny).mean() - np.log(1 - several + tiny).mean()) / 2


def _measured(parameters: Any, strengths: tuple[Floats, Floats]) -> dict[str, Any]:
    """Log loss, Brier score, and for each range of the probability: how many, what was said, and what is so."""
    one, several = (probability(parameters, values) for values in strengths)
    bins = []
    for low, high in pairwise(EDGES):
        ones, others = (values[(values >= low) & (values < high + (high == 1))] for values in (one, several))
        share_one, share_other = len(ones) / len(one), len(others) / len(several)
        if share_one + share_other:
            said = (ones.sum() / len(one) + others.sum() / len(several)) / (share_one + share_other)
            bins.append(
                {
                    "range": [low, high],
                    "one_part": len(ones),
                    "several": len(others),
                    "said": round(float(said), 3),
                    "is": round(share_one / (share_one + share_other), 3),
                }
            )
    brier = (np.square(1 - one).mean() + np.square(several).mean()) / 2
    return {"log_loss": _loss(parameters, strengths), "brier": float(brier), "reliability": bins}


if __name__ == "__main__":
    main()
