"""Tables of the study of experts: tuning, final losses, and differences of methods on the same documents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from study_data import HOMOGENEOUS, SOURCES, StudyData
from study_runs import source_means, unpack

from hydralora.training.outputs.record import write_json

RESULTS = Path(__file__).resolve().parent / "results" / "study_experts.json"
NUM_RESAMPLES = 5000
ROWS = {  # name -> family and gates that its loss was measured with
    "LoRA": ("lora", "router"),
    "HydraLoRA, its own router": ("hydralora", "router"),
    "gates by cluster of the prompt": ("clusters", "lsa128_k6"),
    "gates by predicted source, shared expert": ("sources", "predicted_source"),
    "gates by nearest source, shared expert": ("sources", "nearest_source"),
    "gates by true source (oracle), shared expert": ("sources", "oracle"),
    "LoRA, LoRA+ rates": ("lora_plus", "router"),
    "gates by predicted source, shared expert, LoRA+ rates": ("sources_plus", "predicted_source"),
    "gates by true source (oracle), shared expert, LoRA+ rates": ("sources_plus", "oracle"),
}
# Losses under other gates, put together from those measured: in each document one expert is on, and all but two of the
# documents have a measured loss with that expert.
COMPOSED = "gates by source predicted from words, shared expert"
COMPOSED_GATES = "predicted_source_words"
PLAIN = "HydraLoRA, its own router"
BASELINES = ("LoRA", "LoRA, LoRA+ rates", PLAIN)
ORACLE = "gates by true source (oracle), shared expert"

Floats = NDArray[np.float64]
Records = Mapping[str, Mapping[str, Any]]


def summarise(path: Path, records: Records) -> None:
    """Write `results/study_experts.json` and print its tables as Markdown."""
    data = StudyData.load(path)
    test = data.parts == "test"
    tuning = [_tuning_row(record) for record in records.values() if record["kind"] == "tune"]
    final = [record for record in records.values() if record["kind"] == "final"]
    seeds_of = {family: {r["seed"] for r in final if r["family"] == family} for family, _ in ROWS.values()}
    seeds = set.intersection(*(seeds_of[ROWS[name][0]] for name in (*BASELINES, ORACLE)))
    finished = {name: row for name, row in ROWS.items() if seeds <= seeds_of[row[0]]}
    rows, unmeasured = _final_rows(final, finished, sorted(seeds), data)
    result = {
        "hardware": sorted({f"{r['gpu']}, torch {r['torch']}" for r in records.values()}),
        "data": {
            "fingerprint": data.fingerprint(),
            "test_documents": int(test.sum()),
            "routing": _agreement(data, test),
        },
        "seeds": sorted(seeds),
        "resamples": NUM_RESAMPLES,
        "documents_with_another_wrong_expert_in_composed": unmeasured,
        "tuning": sorted(tuning, key=lambda row: row["validation_loss"]),
        "final": rows,
        "alone": _alone_rows([record for record in records.values() if record["kind"] == "alone"], data),
    }
    write_json(RESULTS, result)
    _print(result)


def _final_rows(
    final: list[Mapping[str, Any]], families: Mapping[str, tuple[str, str]], seeds: list[int], data: StudyData
) -> tuple[dict[str, Any], int]:
    """Losses, differences and gaps of rows over these seeds; and what `_composed` says of its documents."""
    test = data.parts == "test"
    losses = {name: _losses(final, family, gates, seeds) for name, (family, gates) in families.items()}
    losses[COMPOSED], unmeasured = _composed(losses, {name: gates[test] for name, gates in data.gates.items()})
    counts, sources = (data.lengths - data.answer_starts)[test], data.sources[test]
    resampled = _resampled_means(losses, counts, sources)
    rows = {}
    for name in losses:
        family, _ = families.get(name, ROWS[ORACLE])
        of_row = [r for r in final if r["family"] == family and r["seed"] in seeds]
        rows[name] = {
            "setting": of_row[0]["setting"],
            "trainable": of_row[0]["trainable"],
            "loss": source_means(losses[name].mean(axis=0), counts, sources),
            "loss_of_seed": [round(source_means(of_seed, counts, sources)["mean"], 4) for of_seed in losses[name]],
            "differences": {base: _difference(losses, resampled, name, base, counts, sources) for base in BASELINES},
            "gap_closed": _gap_closed(resampled, name),
            "seconds": round(float(np.mean([r["seconds"] for r in of_row])), 1),
        }
    return rows, unmeasured


def _alone_rows(alone: list[Mapping[str, Any]], data: StudyData) -> dict[str, Any]:
    """The homogeneous corpus: mean loss of each setting, and its difference to the LoRA of HydraLoRA's size."""
    if not alone:
        return {}
    test = (data.parts == "test") & (data.sources == SOURCES.index(HOMOGENEOUS))
    counts, sources = (data.lengths - data.answer_starts)[test], data.sources[test]
    settings = {record["family"]: record for record in alone}
    seeds = sorted(set.intersection(*({r["seed"] for r in alone if r["family"] == family} for family in settings)))
    losses = {family: _losses(alone, family, "router", seeds) for family in settings}
    resampled = _resampled_means(losses, counts, sources)
    return {
        family: {
            "setting": record["setting"],
            "trainable": record["trainable"],
            "seeds": seeds,
            "loss": float((losses[family].sum(axis=1) / counts.sum()).mean()),
            "difference": _difference(losses, resampled, family, "lora", counts, sources),
        }
        for family, record in settings.items()
    }


def _tuning_row(record: Mapping[str, Any]) -> dict[str, Any]:
    losses = {gates: round(loss["mean"], 4) for gates, loss in record["loss"].items()}
    first, *_ = losses.values()
    return {"setting": record["setting"], "validation_loss": first, "under": losses, "trainable": record["trainable"]}


def _losses(final: list[Mapping[str, Any]], family: str, gates: str, seeds: list[int]) -> Floats:
    """Summed losses [seeds, documents]."""
    of_seed = {r["seed"]: unpack(r["document_losses"][gates]) for r in final if r["family"] == family}
    return np.array([of_seed[seed] for seed in seeds], np.float64)


def _composed(losses: Mapping[str, Floats], gates: Mapping[str, NDArray[np.float32]]) -> tuple[Floats, int]:
    """Losses under `COMPOSED_GATES`, and in how many documents another wrong expert's had to do."""
    measured = [row for row, (family, _) in ROWS.items() if family == "sources"]
    composed, found = losses[measured[0]].copy(), np.zeros(losses[measured[0]].shape[1], bool)
    for row in measured:
        same = (gates[ROWS[row][1]] == gates[COMPOSED_GATES]).all(axis=1)
        composed[:, same] = losses[row][:, same]
        found |= same
    wrong = losses["gates by nearest source, shared expert"]
    composed[:, ~found] = wrong[:, ~found]
    return composed, int((~found).sum())


def _resampled_means(
    losses: Mapping[str, Floats], counts: NDArray[np.int64], sources: NDArray[np.int64]
) -> dict[str, Floats]:
    """Mean over the sources there are of the mean token loss, [NUM_RESAMPLES] for each method.

    Seeds and, within each source, documents are drawn with replacement: the same ones for all methods.
    """
    random = np.random.default_rng(0)
    num_seeds = len(next(iter(losses.values())))
    seed_weights = random.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), NUM_RESAMPLES) / num_seeds
    means = {name: np.zeros(NUM_RESAMPLES) for name in losses}
    there = np.unique(sources)
    for source in there:
        rows = np.flatnonzero(sources == source)
        drawn = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), NUM_RESAMPLES).astype(np.float64)
        tokens = drawn @ counts[rows]
        for name, values in losses.items():
            sums = drawn @ values[:, rows].T  # [NUM_RESAMPLES, seeds]
            means[name] += (sums * seed_weights).sum(axis=1) / tokens / len(there)
    return means


def _difference(
    losses: Mapping[str, Floats],
    resampled: Mapping[str, Floats],
    name: str,
    base: str,
    counts: NDArray[np.int64],
    sources: NDArray[np.int64],
) -> dict[str, Any]:
    of_seed = [
        source_means(a, counts, sources)["mean"] - source_means(b, counts, sources)["mean"]
        for a, b in zip(losses[name], losses[base], strict=True)
    ]
    low, high = np.quantile(resampled[name] - resampled[base], [0.025, 0.975])
    return {
        "mean": float(np.mean(of_seed)),
        "low": float(low),
        "high": float(high),
        "of_seed": [round(difference, 4) for difference in of_seed],
    }


def _gap_closed(resampled: Mapping[str, Floats], name: str) -> dict[str, float]:
    """0 is HydraLoRA with its own router, 1 the oracle."""
    shares = (resampled[PLAIN] - resampled[name]) / (resampled[PLAIN] - resampled[ORACLE])
    low, middle, high = np.quantile(shares, [0.025, 0.5, 0.975])
    return {"median": float(middle), "low": float(low), "high": float(high)}


def _agreement(data: StudyData, test: NDArray[np.bool_]) -> dict[str, Any]:
    """How well gates find the source of a test document."""
    from sklearn.metrics import normalized_mutual_info_score

    sources = data.sources[test]
    found = {name: gates[test].argmax(axis=1) for name, gates in data.gates.items()}
    result: dict[str, Any] = {
        name: {"normalised_mutual_information": round(float(normalized_mutual_info_score(sources, labels)), 3)}
        for name, labels in found.items()
    }
    for name in ("predicted_source", COMPOSED_GATES, "nearest_source"):
        right = found[name] == sources
        result[name]["accuracy"] = round(float(right.mean()), 4)
        result[name]["accuracy_of_source"] = {
            source: round(float(right[sources == i].mean()), 3) for i, source in enumerate(SOURCES)
        }
    return result


def _print(result: Mapping[str, Any]) -> None:
    print("| setting | trainable | validation loss |\n|---|---|---|")
    for row in result["tuning"]:
        print(f"| {row['setting']} | {row['trainable']:,} | {row['validation_loss']:.4f} |")
    _print_final(result["final"])
    print("\n| |", " | ".join(SOURCES), "|\n|---|" + "---|" * len(SOURCES))
    for name, row in result["final"].items():
        print(f"| {name} |", " | ".join(f"{row['loss'][source]:.4f}" for source in SOURCES), "|")
    print(f"\n| {HOMOGENEOUS} alone | trainable | test loss | minus lora |\n|---|---|---|---|")
    for row in result["alone"].values():
        difference = "{mean:+.4f} [{low:+.4f}, {high:+.4f}]".format(**row["difference"])
        print(f"| {row['setting']} | {row['trainable']:,} | {row['loss']:.4f} | {difference} |")
    print(result["data"]["routing"])


def _print_final(rows: Mapping[str, Any]) -> None:
    names = "".join(f" | minus {base}" for base in BASELINES)
    print(f"\n| | test loss{names} | gap closed |\n|---|---|{'---|' * len(BASELINES)}---|")
    for name, row in rows.items():
        differences = [
            "" if name == base else f"{d['mean']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]"
            for base, d in row["differences"].items()
        ]
        gap = "{median:.0%} [{low:.0%}, {high:.0%}]".format(**row["gap_closed"])
        print(f"| {name} | {row['loss']['mean']:.4f} | {' | '.join(differences)} | {gap} |")
