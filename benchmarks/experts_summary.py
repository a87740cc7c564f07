"""Tables of the study of label-free experts: losses by corpus and by token, differences with intervals, as JSON."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import experts_ideas
import numpy as np
from experts_mix import Mix
from experts_runs import HELD_OUT
from numpy.typing import NDArray
from study_runs import unpack

from hydralora.training.outputs.record import write_json

NUM_RESAMPLES = 4000
METRICS = ("macro", "token")
TRUE_SOURCE = "split by source"
LORAS = ("lora", "lora ratio=1")  # with LoRA+ rates, and plain
LEAST_SEEDS = 3
LEAST_RATES = 3  # of true sources, before a share of their gain is told

Floats = NDArray[np.float64]
Records = Mapping[str, Mapping[str, Any]]
# (arm, groups that held-out losses were measured with, "" for none) -> seed -> summed loss of each held-out document
Losses = dict[tuple[str, str], dict[int, Floats]]


def summarise(state: Path, records: Records, output: Path | None) -> None:
    """Write the summary of all mixes and print it as Markdown. N over seeds is kept if the file has it."""
    known = json.loads(output.read_text()) if output is not None and output.exists() else {"mixes": {}}
    result: dict[str, Any] = {
        "command": "python benchmarks/experts_study.py prepare|run|summary (see its first lines)",
        "hardware": sorted({f"{r['gpu']}, torch {r['torch']}" for r in records.values()}),
        "resamples": NUM_RESAMPLES,
        "intervals": "95%; seeds, tasks within each corpus, and documents within each task drawn with replacement",
        "ideas": {
            "validation_minus_base": experts_ideas.scores(records),
            "ranking": experts_ideas.ranking(records),
            "winners": {
                names: {mix: arm.name for mix, arm in of.items()}
                for names, of in experts_ideas.winners(records).items()
            },
        },
        "mixes": {},
    }
    for path in sorted((state / "mixes").glob("*.npz")):
        of_mix = {key: r for key, r in records.items() if r["mix"] == path.stem}
        if of_mix:
            mix = Mix.load(path)
            counted = known["mixes"].get(path.stem, {}).get("n_over_seeds_and_orders")
            if not counted:
                file = state / f"{path.stem}_states.npz"
                states = np.load(file)["states"].astype(np.float32) if file.exists() else None
                counted = elbows_over_seeds(mix, states)
            result["mixes"][path.stem] = {"n_over_seeds_and_orders": counted, **of_one_mix(mix, of_mix)}
    if output is not None:
        write_json(output, result)
    for name, mix in result["mixes"].items():
        print_mix(name, mix)
    print("\nideas", json.dumps(result["ideas"], indent=1))


def of_one_mix(mix: Mix, records: Records) -> dict[str, Any]:
    """Rows of a mix: each arm under each of its kinds of held-out groups."""
    held_out = mix.indices(*HELD_OUT)
    losses = collect(records.values())
    baseline, chosen = best_lora(losses, mix), chosen_rates(losses, mix)
    rows: dict[str, Any] = {}
    for part in [p for p in ("test", "unseen") if (mix.parts[held_out] == p).any()]:
        part_rows = np.flatnonzero(mix.parts[held_out] == part)
        weights = resampled_documents(mix, held_out[part_rows])
        measure = Measure(mix, held_out[part_rows], weights)
        cut = {key: {seed: sums[part_rows] for seed, sums in seeds.items()} for key, seeds in losses.items()}
        rows[part] = {_label(key): _row(key, cut, baseline, chosen, measure, records) for key in cut}
    return {
        "documents": {part: int((mix.parts == part).sum()) for part in np.unique(mix.parts)},
        "training_tokens": int(mix.lengths[mix.parts == "train"].sum()),
        "facts": mix.facts,
        "lora": baseline,
        "chosen": chosen,
        "validation": _validation(losses, mix),
        "rows": rows,
    }


def elbows_over_seeds(mix: Mix, states: Any, number: int = 20) -> dict[str, int]:
    """How often each N is the elbow of the hidden states, for seeds of K-means and orders of the documents."""
    from analysis.clusters.choice.selection import elbow
    from analysis.clusters.kmeans import sweep_kmeans
    from analysis.features.hidden_states import HiddenStates

    if states is None:
        return {}
    known = states[mix.parts == "train"]
    rows, _ = HiddenStates().fit_states(known).transform_states(known)
    found = []
    for seed in range(number):
        shuffled = rows[np.random.default_rng(seed).permutation(len(rows))]
        sweep = sweep_kmeans(shuffled, range(1, 21), random_state=seed)
        found.append(elbow(sweep))
    return {str(n): found.count(n) for n in sorted(set(found))}


class Measure:
    """Mean losses of held-out documents of one part, and their distribution over resampled documents."""

    def __init__(self, mix: Mix, documents: NDArray[np.int64], weights: Floats) -> None:
        self.counts = (mix.lengths - mix.answer_starts)[documents].astype(float)
        self.sources = mix.sources[documents]
        self.there = np.unique(self.sources)
        self.names = [mix.source_names[s] for s in self.there]
        self.member = (self.sources[:, None] == self.there).astype(float)
        self.weights = weights

    def point(self, sums: Floats) -> dict[str, float]:
        """Of summed losses [documents]."""
        of_source = (sums @ self.member) / (self.counts @ self.member)
        found = {"macro": float(of_source.mean()), "token": float(sums.sum() / self.counts.sum())}
        return found | dict(zip(self.names, of_source.tolist(), strict=True))

    def resampled(self, sums: Floats) -> dict[str, Floats]:
        """Of summed losses [seeds, documents]: macro and token of each resample."""
        random = np.random.default_rng(1)
        n_seeds = len(sums)
        seeds = random.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), len(self.weights)) / n_seeds
        weighted = (seeds @ sums) * self.weights
        counts = self.weights * self.counts
        with np.errstate(invalid="ignore"):
            of_source = (weighted @ self.member) / (counts @ self.member)
        return {"macro": np.nanmean(of_source, axis=1), "token": weighted.sum(axis=1) / counts.sum(axis=1)}


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


def collect(records: Iterable[Mapping[str, Any]]) -> Losses:
    """Losses by arm, groups and seed."""
    losses: Losses = {}
    for record in records:
        for groups, packed in record["document_losses"].items():
            losses.setdefault((record["arm"], groups), {})[record["seed"]] = unpack(packed).astype(float)
    return losses


def best_lora(losses: Losses, mix: Mix) -> str:
    """The LoRA, plain or with LoRA+ rates, of least validation loss (macro), each at its best rate."""
    chosen = chosen_rates(losses, mix)
    return min(
        (chosen[design] for design in LORAS if design in chosen),
        key=lambda arm: _validation({(arm, ""): _first_seed(losses[arm, ""])}, mix)[arm]["macro"],
    )


def _first_seed(seeds: dict[int, Floats]) -> dict[int, Floats]:
    return {min(seeds): seeds[min(seeds)]}


def chosen_rates(losses: Losses, mix: Mix) -> dict[str, str]:
    """Design -> its arm of least validation loss (macro) over the seeds that all rates of the design have."""
    designs: dict[str, dict[str, dict[int, Floats]]] = {}
    for (arm, _), seeds in losses.items():  # the groups that count come first
        designs.setdefault(arm.split(" lr=")[0], {}).setdefault(arm, seeds)
    chosen = {}
    for design, arms in designs.items():
        common = set.intersection(*(set(seeds) for seeds in arms.values()))
        found = _validation({(arm, ""): {s: seeds[s] for s in common} for arm, seeds in arms.items()}, mix)
        chosen[design] = min(arms, key=lambda arm: found[_label((arm, ""))]["macro"])
    return chosen


def _validation(losses: Losses, mix: Mix) -> dict[str, Any]:
    held_out = mix.indices(*HELD_OUT)
    rows = np.flatnonzero(mix.parts[held_out] == "validation")
    measure = Measure(mix, held_out[rows], np.zeros((0, len(rows))))
    found = {}
    for key, seeds in losses.items():
        point = measure.point(np.mean([sums[rows] for sums in seeds.values()], axis=0))
        found[_label(key)] = {name: point[name] for name in METRICS} | {"seeds": sorted(seeds)}
    return found


def _row(
    key: tuple[str, str],
    losses: Losses,
    baseline: str,
    chosen: Mapping[str, str],
    measure: Measure,
    records: Records,
) -> dict[str, Any]:
    seeds = losses[key]
    record = next(r for r in records.values() if r["arm"] == key[0])
    row: dict[str, Any] = {
        "seeds": sorted(seeds),
        **{name: record[name] for name in ("experts", "r", "trainable")},
        "loss": measure.point(np.mean(list(seeds.values()), axis=0)),
    }
    common = sorted(set(seeds) & set(losses[baseline, ""]))
    if key[0] == baseline or not common:
        return row
    difference = _stacked(losses, key, common) - _stacked(losses, (baseline, ""), common)
    row["minus_lora"] = difference_row(difference, measure)
    row["minus_lora"]["seeds"] = common
    row["minus_other_loras"] = _against_others(key, losses, baseline, measure)
    row["share_of_gain_of_true_sources"] = _share(key, losses, baseline, chosen, measure)
    return row


def _against_others(key: tuple[str, str], losses: Losses, baseline: str, measure: Measure) -> dict[str, Any]:
    """Differences from LoRAs that were not chosen, where three seeds or more are common."""
    found: dict[str, Any] = {}
    for other in losses:
        common = sorted(set(losses[key]) & set(losses[other]))
        if other[0].split(" lr=")[0] in LORAS and other[0] not in (baseline, key[0]) and len(common) >= LEAST_SEEDS:
            difference = _stacked(losses, key, common) - _stacked(losses, other, common)
            found[other[0]] = difference_row(difference, measure) | {"seeds": common}
    return found


def _stacked(losses: Losses, key: tuple[str, str], seeds: list[int]) -> Floats:
    return np.array([losses[key][seed] for seed in seeds])


def difference_row(difference: Floats, measure: Measure) -> dict[str, Any]:
    """Point, interval and seeds of a difference [seeds, documents], and of each corpus."""
    point, resampled = measure.point(difference.mean(axis=0)), measure.resampled(difference)
    found: dict[str, Any] = {name: [point[name], *_interval(resampled[name])] for name in METRICS}
    found["of_seed"] = {name: [round(measure.point(d)[name], 5) for d in difference] for name in METRICS}
    found["of_corpus"] = {name: value for name, value in point.items() if name not in METRICS}
    return found


def _share(
    key: tuple[str, str], losses: Losses, baseline: str, chosen: Mapping[str, str], measure: Measure
) -> dict[str, list[float]] | None:
    """How much of what experts by the true source gain over the LoRA this row gains."""
    rates = {arm for arm, _ in losses if arm.startswith(TRUE_SOURCE)}
    if len(rates) < LEAST_RATES:
        return None
    true = (chosen[TRUE_SOURCE], "source")
    common = sorted(set(losses[key]) & set(losses[baseline, ""]) & set(losses.get(true, {})))
    if not common:
        return None
    lora = _stacked(losses, (baseline, ""), common)
    own, most = (_stacked(losses, k, common) - lora for k in (key, true))
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
    for part, rows in mix["rows"].items():
        print(f"\n## {name}, {part}; against {mix['lora']}\n\nRates by validation: {mix['chosen']}\n")
        print(
            "| arm | N | trained | seeds | macro | token | minus LoRA, macro | minus LoRA, token | share of true"
            " sources' gain, macro / token | worst corpus |\n|" + "---|" * 10
        )
        for label, row in rows.items():
            cells = [label, row["experts"], f"{row['trainable'] / 1e6:.2f} M", len(row["seeds"])]
            cells += [f"{row['loss'][metric]:.4f}" for metric in METRICS]
            if "minus_lora" in row:
                minus = row["minus_lora"]
                cells += ["{:+.4f} [{:+.4f}, {:+.4f}]".format(*minus[metric]) for metric in METRICS]
                share = row["share_of_gain_of_true_sources"]
                cells.append(
                    " / ".join(f"{share[m][0]:.0%} [{share[m][1]:.0%}, {share[m][2]:.0%}]" for m in METRICS)
                    if share
                    else ""
                )
                worst = max(minus["of_corpus"], key=lambda n: minus["of_corpus"][n] / row["loss"][n])
                cells.append(
                    f"{worst} {minus['of_corpus'][worst]:+.4f} ({minus['of_corpus'][worst] / row['loss'][worst]:+.2%})"
                )
            print("| " + " | ".join(map(str, cells)) + " |")
    print("\nfacts", json.dumps(mix["facts"]))
