"""Tables of the study of label-free experts: losses by corpus and by token, differences with intervals, as JSON."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from experts_mix import Mix
from experts_plan import LORAS, OWN, TAIL, TFIDF, TRIALS, Score, leading, like_own, mean, scores, splits, tuned
from experts_runs import HELD_OUT, Run
from numpy.typing import NDArray
from run_records import read_records
from study_runs import unpack

from hydralora.training.outputs.record import write_json

NUM_RESAMPLES = 4000
METRICS = ("macro", "token")
SETS = ("test", "unseen")  # "unseen" are tasks that no training document has
DESIGNS = {"lora": LORAS, "split": splits(OWN)}

Floats = NDArray[np.float64]
# (arm, groups that held-out losses were measured with) -> seed -> summed loss of each held-out document
Losses = dict[tuple[str, str], dict[int, Floats]]


def summarise(state: Path, output: Path | None) -> None:
    """Write the summary of all mixes, and print it as Markdown."""
    records, first_draw = read_records(state / "runs.jsonl"), read_records(state / "first_draw.jsonl")
    score = scores(records, first_draw)
    result: dict[str, Any] = {
        "command": "python benchmarks/studies/experts_study.py prepare|run|summary (see its first lines)",
        "hardware": sorted({f"{r['gpu']}, torch {r['torch']}" for r in records.values()}),
        "runs": {
            "summarised": len(records),
            "of the first draw, which choose rates beside the headline": len(first_draw),
        },
        "resamples": NUM_RESAMPLES,
        "intervals": "95%; seeds, tasks within each corpus, and documents within each task drawn with replacement",
        "mixes": {},
    }
    for path in sorted((state / "mixes").glob("*.npz")):
        if of_mix := [r for r in records.values() if r["mix"] == path.stem]:
            result["mixes"][path.stem] = of_one_mix(Mix.load(path), of_mix, score)
            print_mix(path.stem, result["mixes"][path.stem])
    if output is not None:
        write_json(output, result)


def of_one_mix(mix: Mix, records: list[Mapping[str, Any]], score: Score) -> dict[str, Any]:
    """Choices by validation documents, and rows of each set: each arm under each of its kinds of held-out groups."""
    chosen = {f"best {name}": leading(designs, mix.name, score) for name, designs in DESIGNS.items()}
    if (lora := chosen["best lora"]) is None or (own := chosen["best split"]) is None:
        raise ValueError(f"{mix.name}: expected a LoRA and a split with a chosen rate; run the study further")
    others = [like_own(groups, own) for groups in (TFIDF, TAIL, "source")]
    for design in (*LORAS, *splits(OWN), *others):
        chosen[_design(design.arm.name)] = design.tuned(mix.name, score)[1]
    held_out = mix.indices(*HELD_OUT)
    references = {name: (arm.name, arm.groups) for name, arm in (("lora", lora), ("split", own))}
    true = chosen[_design(others[-1].arm.name)]
    rows: dict[str, Any] = {}
    for name in SETS:
        places = np.flatnonzero(mix.parts[held_out] == name)
        if len(places) == 0:
            continue
        measure = Measure(mix, held_out[places], resampled_documents(mix, held_out[places]))
        losses = collect(records, places)
        of_true = losses.get((true.name, "source"), {}) if true else {}
        rows[name] = {_label(key): _row(key, losses, references, of_true, measure, records) for key in losses}
    return {
        "documents": {part: int((mix.parts == part).sum()) for part in np.unique(mix.parts)},
        "training_tokens": int(mix.lengths[mix.parts == "train"].sum()),
        "facts": mix.facts,
        "chosen": {name: arm.name if arm else None for name, arm in chosen.items()},
        "validation": validation(mix.name, records, score),
        "rows": rows,
    }


def validation(mix: str, records: Iterable[Mapping[str, Any]], score: Score) -> dict[str, Any]:
    """Scores of arms over the seeds that choose, and each metric over these seeds of the records."""
    found: dict[str, dict[int, Any]] = {}
    for record in records:
        if record["seed"] in TRIALS:
            found.setdefault(record["arm"], {})[record["seed"]] = next(iter(record["loss"].values()))["validation"]
    arms = [arm for designs in DESIGNS.values() for arm in tuned(designs, mix, score)]
    means = {name: {m: float(np.mean([r[m] for r in of.values()])) for m in METRICS} for name, of in found.items()}
    rows: dict[str, Any] = {name: {"seeds": sorted(found[name])} | of for name, of in means.items()}
    return rows | {
        arm.name: rows.get(arm.name, {}) | {"score": mean(score, [Run(mix, arm, s) for s in TRIALS])} for arm in arms
    }


def _design(arm: str) -> str:
    return arm.split(" lr=")[0]


class Measure:
    """Mean losses of held-out documents of one part, and their distribution over resampled documents."""

    def __init__(self, mix: Mix, documents: NDArray[np.int64], weights: Floats) -> None:
        self.counts = (mix.lengths - mix.answer_starts)[documents].astype(float)
        self.sources = mix.sources[documents]
        self.there = np.unique(self.sources)
        self.names = [mix.source_names[s] for s in self.there]
        self.member = (self.sources[:, None] == self.there).astype(float)
        self.weights = weights
        self.drawn = weights @ (self.counts[:, None] * self.member)  # answer tokens of each resample and source

    def point(self, sums: Floats) -> dict[str, float]:
        """Of summed losses [documents]."""
        of_source = (sums @ self.member) / (self.counts @ self.member)
        found = {"macro": float(of_source.mean()), "token": float(sums.sum() / self.counts.sum())}
        return found | dict(zip(self.names, of_source.tolist(), strict=True))

    def of_sources(self, sums: Floats) -> Floats:
        """Of summed losses [seeds, documents]: those of each resample of documents and source [resamples, seeds, n]."""
        parts = sums.T[:, :, None] * self.member[:, None]
        return (self.weights @ parts.reshape(len(parts), -1)).reshape(len(self.weights), *parts.shape[1:])

    def metrics(self, loss: Floats) -> dict[str, Floats]:
        """Macro and token of each resample, of summed losses [resamples, sources]."""
        with np.errstate(invalid="ignore"):
            of_source = loss / self.drawn
        return {"macro": np.nanmean(of_source, axis=1), "token": loss.sum(axis=1) / self.drawn.sum(axis=1)}

    def resampled(self, sums: Floats) -> dict[str, Floats]:
        """Of summed losses [seeds, documents]: macro and token of each resample of seeds and documents."""
        random = np.random.default_rng(1)
        n_seeds = len(sums)
        seeds = random.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), len(self.weights)) / n_seeds
        return self.metrics(np.einsum("rs,rsn->rn", seeds, self.of_sources(sums)))


def resampled_documents(mix: Mix, documents: NDArray[np.int64]) -> Floats:
    """How often each document is drawn [resamples, documents]: tasks of each corpus first, then documents of each."""
    random = np.random.default_rng(0)
    weights = np.zeros((NUM_RESAMPLES, len(documents)))
    for source in np.unique(mix.sources[documents]):
        of_source = np.flatnonzero(mix.sources[documents] == source)
        tasks = np.unique(mix.tasks[documents[of_source]])
        drawn = random.multinomial(len(tasks), np.full(len(tasks), 1 / len(tasks)), NUM_RESAMPLES)
        for task, times in zip(tasks, drawn.T, strict=True):
            of_task = of_source[mix.tasks[documents[of_source]] == task]
            size = len(of_task)
            weights[:, of_task] = random.multinomial(times * size, np.full(size, 1 / size))
    return weights


def collect(records: Iterable[Mapping[str, Any]], places: NDArray[np.int64]) -> Losses:
    """Losses of the held-out documents at these places, by arm, groups and seed; a later record replaces an earlier."""
    losses: Losses = {}
    for record in records:
        for groups, packed in record.get("document_losses", {}).items():
            losses.setdefault((record["arm"], groups), {})[record["seed"]] = unpack(packed).astype(float)[places]
    return losses


def _row(
    key: tuple[str, str],
    losses: Losses,
    references: Mapping[str, tuple[str, str]],
    true: Mapping[int, Floats],
    measure: Measure,
    records: list[Mapping[str, Any]],
) -> dict[str, Any]:
    seeds = losses[key]
    record = next(r for r in records if r["arm"] == key[0])
    row: dict[str, Any] = {
        "seeds": sorted(seeds),
        **{name: record[name] for name in ("experts", "r", "trainable")},
        "loss": measure.point(np.mean(list(seeds.values()), axis=0)),
    }
    for name, reference in references.items():
        of = losses.get(reference, {})
        if key == reference or not (common := sorted(set(seeds) & set(of))):
            continue
        difference = np.array([seeds[seed] - of[seed] for seed in common])
        row[f"minus_{name}"] = {name: reference[0], "seeds": common} | difference_row(difference, measure)
        if name == "lora" and len(both := [i for i, seed in enumerate(common) if seed in true]) > 2:
            most = np.array([true[common[i]] - of[common[i]] for i in both])
            row["minus_lora"]["share_of_true_sources"] = _share(difference[both], most, measure)
    return row


def difference_row(difference: Floats, measure: Measure) -> dict[str, Any]:
    """Point and interval of a difference [seeds, documents], what the interval comes from, and each corpus."""
    point, resampled = measure.point(difference.mean(axis=0)), measure.resampled(difference)
    found: dict[str, Any] = {name: [point[name], *_interval(resampled[name])] for name in METRICS}
    found["of_seed"] = {name: [round(measure.point(d)[name], 5) for d in difference] for name in METRICS}
    found["of_corpus"] = {name: value for name, value in point.items() if name not in METRICS}
    if len(difference) > 2 and len(measure.weights):
        found["power"] = {name: _power(difference, name, measure) for name in METRICS}
    return found


def _power(difference: Floats, metric: str, measure: Measure) -> dict[str, Any]:
    """Standard deviations of seeds and of documents (tasks too), and the seeds at which zero would be excluded.

    The variance of a mean over n seeds is taken as seeds / n + documents. Of documents, what differs from seed to seed
    is already in the first part; the rest is what more seeds would not change.
    """
    n = len(difference)
    seeds = float(np.var([measure.point(d)[metric] for d in difference], ddof=1))
    of_sources = measure.of_sources(difference)
    one = float(np.mean([np.nanvar(measure.metrics(of)[metric]) for of in of_sources.swapaxes(0, 1)]))
    of_mean = float(np.nanvar(measure.metrics(of_sources.mean(axis=1))[metric]))
    documents = max(0.0, (n * of_mean - one) / (n - 1))
    room = (measure.point(difference.mean(axis=0))[metric] / 1.96) ** 2 - documents
    needed = int(np.ceil(seeds / room)) if room > 0 else None
    return {"sd_of_seeds": seeds**0.5, "sd_of_documents": documents**0.5, "seeds_needed": needed}


def _share(own: Floats, most: Floats, measure: Measure) -> dict[str, list[float]]:
    """How much of what experts by the true source gain this row gains."""
    points = measure.point(own.mean(axis=0)), measure.point(most.mean(axis=0))
    draws = measure.resampled(own), measure.resampled(most)
    return {name: [points[0][name] / points[1][name], *_interval(draws[0][name] / draws[1][name])] for name in METRICS}


def _interval(values: Floats) -> list[float]:
    return [float(v) for v in np.nanquantile(values, (0.025, 0.975))]


def _label(key: tuple[str, str]) -> str:
    arm, groups = key
    trained = arm.split(" by ")[1].split(" ")[0] if " by " in arm else ""
    return arm if groups in ("", trained) else f"{arm}, gates {groups}"


def print_mix(name: str, mix: Mapping[str, Any]) -> None:
    """The rows of a mix as Markdown."""
    for documents, rows in mix["rows"].items():
        print(f"\n## {name}, {documents}\n\nChosen: {mix['chosen']}\n")
        for label, row in sorted(rows.items(), key=lambda item: sum(item[1]["loss"][m] for m in METRICS)):
            losses = " / ".join(f"{row['loss'][metric]:.4f}" for metric in METRICS)
            cells = [label, row["experts"], f"{row['trainable'] / 1e6:.2f} M", len(row["seeds"]), losses]
            if minus := row.get("minus_lora"):
                cells += [len(minus["seeds"]), *_printed(minus, row["loss"])]
            print("| " + " | ".join(map(str, cells)) + " |")
    print("\nvalidation", json.dumps(mix["validation"]), "\nfacts", json.dumps(mix["facts"]))


def _printed(minus: Mapping[str, Any], loss: Mapping[str, float]) -> list[str]:
    """Differences with intervals, the seeds they need, the share of what true sources gain, and the worst corpus."""
    power, share = minus.get("power", {}), minus.get("share_of_true_sources", {})
    change = {name: value / loss[name] for name, value in minus["of_corpus"].items()}
    worst = max(change, key=lambda name: change[name])
    return [
        " / ".join("{:+.4f} [{:+.4f}, {:+.4f}]".format(*minus[metric]) for metric in METRICS),
        "/".join(str(of["seeds_needed"]) for of in power.values()),
        " / ".join(f"{of[0]:.0%}" for of in share.values()),
        f"{worst} {change[worst]:+.2%}",
    ]
