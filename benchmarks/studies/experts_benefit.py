"""Does a measurement of the corpus predict whether experts help? Fifteen parts of the study's mixes, trained for real.

    python benchmarks/studies/experts_benefit.py prepare STUDY PARTS    # STUDY: the state of experts_study.py; on a CPU
    python benchmarks/studies/experts_benefit.py run PARTS --minutes 6  # again and again until all is done
    python benchmarks/studies/experts_benefit.py summary PARTS RESULTS.json

The benefit of a part is the held-out loss of a LoRA minus that of a split of at most its size, each at the better of
two rates on validation documents, over two seeds. N is that of the elbow, or `FORCED` where the corpus shows no
structure. Candidates to predict it: the elbow's N, strength of structure, sharpness, stability, what the group tells
about the tokens of answers, and a proxy run on a quarter of the documents.
"""

import argparse
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from experts_mix import Ints, Mix
from experts_queue import add_arguments, run_all
from experts_runs import Arm, Budget, Run
from numpy.typing import NDArray
from run_records import read_records

from hydralora.training.outputs.record import write_json

# Name -> mix and its sources; chosen before any was trained.
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dolly": ("six", ("dolly15k",)),
    "flan10": ("six", ("flan10",)),
    "gsm8k": ("six", ("gsm8k",)),
    "legalbench": ("six", ("legalbench",)),
    "mbxp": ("six", ("mbxp",)),
    "medquad": ("six", ("medquad",)),
    "dolly+gsm8k": ("six", ("dolly15k", "gsm8k")),
    "legalbench+medquad": ("six", ("legalbench", "medquad")),
    "flan10+mbxp": ("six", ("flan10", "mbxp")),
    "dolly+medquad": ("six", ("dolly15k", "medquad")),
    "dolly+legalbench+mbxp": ("six", ("dolly15k", "legalbench", "mbxp")),
    "flan10+gsm8k+medquad": ("six", ("flan10", "gsm8k", "medquad")),
    "mmlu+pubmedqa": ("exams", ("mmlu", "pubmedqa")),
    "mbpp+pubmedqa": ("exams", ("mbpp", "pubmedqa")),
    "dolly+gsm8k+medquad": ("six", ("dolly15k", "gsm8k", "medquad")),
}
PROXY = "_proxy"
PROXY_SHARE = 4
FORCED = 4
LORA_RATES, SPLIT_RATES = (1e-3, 5e-4), (1.2e-3, 6e-4)
SEEDS = (1, 2)
ONE_GROUP = ("dolly", "gsm8k", "dolly+gsm8k")  # parts that show no structure: N = 1 is trained too
LATER = "dolly+gsm8k+medquad"  # chosen after the others, to see what told sources gain
TOLD = (LATER, "dolly+gsm8k", "dolly+medquad")  # sources that prompts tell, little or no structure
KINDS = {"lora": "lora lr", "split": "split by groups", "one": "split by one", "sources": "split by source"}
LARGEST_K = 20
SMOOTHING = 0.1


def prepare(study: Path, folder: Path) -> None:
    """Parts with groups of their own into FOLDER/mixes, and what the corpus shows of each into FOLDER/facts.json."""
    (folder / "mixes").mkdir(parents=True, exist_ok=True)
    facts = {}
    for name, (of, sources) in PARTS.items():
        mix = Mix.load(study / "mixes" / f"{of}.npz")
        with np.load(study / "states" / f"{of}.npz") as saved:
            states = saved["states"].astype(np.float32)  # of training prompts
        wanted = np.isin(mix.sources, [mix.source_names.index(source) for source in sources])
        rows = np.flatnonzero(wanted & np.isin(mix.parts, ("train", "validation", "test")))
        part, facts[name] = _grouped(replace(mix.take(rows), name=name), states[np.isin(mix.indices("train"), rows)])
        part.save(folder / "mixes" / f"{name}.npz")
        training = np.flatnonzero(part.parts == "train")
        kept = np.concatenate([training[::PROXY_SHARE], np.flatnonzero(part.parts != "train")])
        part.take(np.sort(kept)).save(folder / "mixes" / f"{name}{PROXY}.npz")
        print(name, json.dumps(facts[name]), flush=True)
    write_json(folder / "facts.json", facts)


def _grouped(mix: Mix, states: NDArray[np.float32]) -> tuple[Mix, dict[str, Any]]:
    """K-means of the hidden state at the N that the corpus shows, and what was measured on the way."""
    from experts_groups import texts_of, told_by_words

    from analysis.clusters.choice.selection import select_num_clusters
    from analysis.clusters.kmeans import assign, sweep_kmeans
    from analysis.features.hidden_states import HiddenStates

    training = mix.parts == "train"
    rows = HiddenStates().fit_states(states).transform_states(states)[0]
    prompts = texts_of(mix)[0]
    known = [prompts[i] for i in np.flatnonzero(training)]
    sweep = sweep_kmeans(rows, range(1, LARGEST_K + 1), n_init=10)
    choice = select_num_clusters(rows, sweep, known)
    trained = choice.value if choice.value > 1 else FORCED
    own = assign(rows, sweep.centers[sweep.index(trained)])[0].astype(np.int64)
    groups = told_by_words(prompts, own, training)
    groups[training] = own
    facts = {
        "documents": int(training.sum()),
        "n": choice.value,
        "interval": choice.interval,
        "trained_n": trained,
        "structure": choice.evidence.strength,
        "sharpness": choice.sharpness,
        "stability": choice.stability,
        "answer_information": answer_information(mix, groups),
    }
    known = np.unique(mix.sources, return_inverse=True)[1]
    labels = {"groups": groups, "one": np.zeros_like(groups), "source": known}
    return replace(mix, labels=labels, facts=facts), facts


def answer_information(mix: Mix, groups: Ints) -> float:
    """How many nats a token the group saves on held-out answers: frequencies of tokens by group against those of all.

    Both are counted on training answers; those of a group are smoothed towards those of all.
    """
    overall: Counter[int] = Counter()
    of_group: dict[int, Counter[int]] = {}
    for i in np.flatnonzero(mix.parts == "train"):
        answer = mix.document(i)[mix.answer_starts[i] :].tolist()
        overall.update(answer)
        of_group.setdefault(int(groups[i]), Counter()).update(answer)
    total = sum(overall.values())
    sizes = {group: sum(counts.values()) for group, counts in of_group.items()}
    saved, tokens = 0.0, 0
    for i in np.flatnonzero(mix.parts == "validation"):
        counts, size = of_group.get(int(groups[i]), Counter()), sizes.get(int(groups[i]), 0)
        for token in mix.document(i)[mix.answer_starts[i] :].tolist():
            prior = (overall[token] + 1) / (total + 49_152)
            strength = SMOOTHING * total / len(sizes)
            saved += float(np.log((counts[token] + strength * prior) / (size + strength) / prior))
            tokens += 1
    return saved / max(tokens, 1)


def planned() -> list[Run]:
    """What told sources gain, proxies, one seed of all parts, then the other, and one group."""
    proxies = (Arm("lora", LORA_RATES[0]), Arm("split", SPLIT_RATES[0], "groups"))
    runs = [Run(f"{name}{PROXY}", arm, SEEDS[0]) for name in PARTS if name != LATER for arm in proxies]
    arms = [Arm("lora", rate) for rate in LORA_RATES] + [Arm("split", rate, "groups") for rate in SPLIT_RATES]
    one = [Arm("split", rate, "one") for rate in SPLIT_RATES]
    runs += [Run(name, arm, seed) for seed in SEEDS for name in PARTS for arm in arms]
    by_source = [Arm("split", rate, "source") for rate in SPLIT_RATES]
    told = [Run(name, arm, seed) for seed in SEEDS for name in TOLD for arm in (*arms[:2], *by_source)]
    return told + runs + [Run(name, arm, seed) for seed in SEEDS for name in ONE_GROUP for arm in one]


def summary(folder: Path, output: Path) -> None:
    """Benefits, candidates, and how well each ranks the parts."""
    from scipy.stats import spearmanr

    records = read_records(folder / "runs.jsonl")
    facts = json.loads((folder / "facts.json").read_text())
    rows: dict[str, Any] = {}
    for name in PARTS:
        of_part = [r for r in records.values() if r["mix"] == name]
        if len(_arms(of_part, "lora")) < len(LORA_RATES) or len(_arms(of_part, "split")) < len(SPLIT_RATES):
            print(f"{name}: not all arms are trained")
            continue
        proxy = {r["arm"].split(" ")[0]: _of(r, "validation") for r in records.values() if r["mix"] == name + PROXY}
        measured = _benefits(Mix.load(folder / "mixes" / f"{name}.npz"), of_part)
        rows[name] = {
            **facts[name],
            **measured,
            "proxy": proxy["lora"] - proxy["split"] if len(proxy) == 2 else None,
        }
    candidates = ("n", "structure", "sharpness", "stability", "answer_information", "proxy")
    benefits = [row["benefit"]["token"][0] for row in rows.values()]
    ranks = {}
    for candidate in candidates:
        found = spearmanr([row[candidate] for row in rows.values()], benefits)
        ranks[candidate] = {"spearman": float(found.statistic), "p": float(found.pvalue)}
    helped = [name for name, row in rows.items() if row["benefit"]["token"][1] > 0]
    hurt = [name for name, row in rows.items() if row["benefit"]["token"][2] < 0]
    write_json(output, {"parts": rows, "rank_correlation": ranks, "helped": helped, "hurt": hurt})
    for name, row in rows.items():
        benefit = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row["benefit"]["token"])
        print(name, benefit, {candidate: row[candidate] for candidate in candidates}, row["arms"])
    print(json.dumps(ranks, indent=1), "helped", helped, "hurt", hurt)


def _benefits(mix: Mix, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Loss of the LoRA minus that of the split (and of the split of one group), each at its best rate."""
    from experts_summary import Measure, difference_row, resampled_documents
    from study_runs import unpack

    held_out = mix.indices("validation", "test", "unseen")
    test = np.flatnonzero(mix.parts[held_out] == "test")
    kinds = [kind for kind in KINDS if _arms(records, kind)]
    arms = [arm for kind in kinds for arm in _arms(records, kind)]
    seeds = sorted(set.intersection(*({r["seed"] for r in records if r["arm"] == arm} for arm in arms)))
    chosen = {kind: _best(records, kind, seeds) for kind in kinds}
    losses = {
        kind: np.array([unpack(_loss(records, arm, seed)).astype(float)[test] for seed in seeds])
        for kind, arm in chosen.items()
    }
    measure = Measure(mix, held_out[test], resampled_documents(mix, held_out[test]))
    found: dict[str, Any] = {
        "seeds": seeds,
        "arms": chosen,
        "loss": {kind: measure.point(values.mean(axis=0))["token"] for kind, values in losses.items()},
    }
    for name, kind in (("benefit", "split"), ("benefit_of_one_group", "one"), ("benefit_of_sources", "sources")):
        if kind in losses:
            row = difference_row(losses["lora"] - losses[kind], measure)
            found[name] = {metric: row[metric] for metric in ("token", "macro")}
    return found


def _arms(records: list[dict[str, Any]], kind: str) -> list[str]:
    return sorted({record["arm"] for record in records if record["arm"].startswith(KINDS[kind])})


def _of(record: dict[str, Any], part: str) -> float:
    return float(next(iter(record["loss"].values()))[part]["token"])


def _best(records: list[dict[str, Any]], kind: str, seeds: list[int]) -> str:
    of_arm = {
        arm: [_of(r, "validation") for r in records if r["arm"] == arm and r["seed"] in seeds]
        for arm in _arms(records, kind)
    }
    return min(of_arm, key=lambda arm: float(np.mean(of_arm[arm])))


def _loss(records: list[dict[str, Any]], arm: str, seed: int) -> str:
    record = next(r for r in records if r["arm"] == arm and r["seed"] == seed)
    return str(next(iter(record["document_losses"].values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("prepare", "run", "summary"))
    parser.add_argument("folder", type=Path, help="state of the study (prepare), or of the parts")
    parser.add_argument("output", type=Path, nargs="?", help="folder of the parts (prepare), or a JSON file (summary)")
    add_arguments(parser)
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if arguments.command == "run":
        run_all(lambda records: planned(), arguments.folder, arguments, budget=Budget())
    elif arguments.output is None:
        parser.error(f"{arguments.command}: expected a second path")
    elif arguments.command == "prepare":
        prepare(arguments.folder, arguments.output)
    else:
        summary(arguments.folder, arguments.output)


if __name__ == "__main__":
    main()
