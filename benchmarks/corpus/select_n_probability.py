"""Is the probability of one part calibrated? Fitted on half of the single tasks and splits, read on the rest.

    python benchmarks/corpus/select_n_probability.py

reads benchmarks/results/select_n_splits.json, prints the fit and its reliability, and writes select_n_probability.json.
For the fit, one part and several count alike. The product shifts it to the prior with which they are equally likely
where the answer changes; the rest is read with this prior. Corpora that the answer calls too small are left out.
"""

import json
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from analysis.clusters.choice.structure import MIN_DOCUMENTS, MIN_WORDS, SLOPE
from hydralora.training.outputs.record import write_json

RESULTS = Path(__file__).parents[1] / "results"
RATIOS = ("1:1", "10:1")
START = (9.6, 0.99)
PRIOR = 0.24  # share of corpora of one part that `probability_of_one` assumes; `prior_of_one_part` of the fit
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
    fit = minimize(_loss, START, (_strengths(odd),), bounds=((1, 40), (0.5, 2)))
    result = {
        "fitted_on_odd": {name: float(v) for name, v in zip(("slope", "midpoint"), fit.x, strict=True)},
        "prior_of_one_part": 1 - float(probability(fit.x, np.ones(1))[0]),
        "too_small": len(single) - len(large),
        "even_half": {ratio: _measured(_strengths([one[0], several[ratio][0]])) for ratio in RATIOS},
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


def _loss(parameters: Any, strengths: tuple[Floats, Floats], prior: float = 0.5) -> float:
    one, several = (probability(parameters, values) for values in strengths)
    tiny = 1e-12
    return float(-prior * np.log(one + tiny).mean() - (1 - prior) * np.log(1 - several + tiny).mean())


def _measured(strengths: tuple[Floats, Floats]) -> dict[str, Any]:
    """Log loss, Brier score, and for each range of the probability: how many, what was said, and what is so."""
    parameters = (SLOPE, 1.0)
    one, several = (probability(parameters, values) for values in strengths)
    bins = []
    for low, high in pairwise(EDGES):
        ones, others = (values[(values >= low) & (values < high + (high == 1))] for values in (one, several))
        weight_one, weight_other = PRIOR / len(one), (1 - PRIOR) / len(several)
        total = len(ones) * weight_one + len(others) * weight_other
        if total:
            bins.append(
                {
                    "range": [low, high],
                    "one_part": len(ones),
                    "several": len(others),
                    "said": round(float(ones.sum() * weight_one + others.sum() * weight_other) / total, 3),
                    "is": round(len(ones) * weight_one / total, 3),
                }
            )
    brier = PRIOR * np.square(1 - one).mean() + (1 - PRIOR) * np.square(several).mean()
    return {"log_loss": _loss(parameters, strengths, PRIOR), "brier": float(brier), "reliability": bins}


if __name__ == "__main__":
    main()
