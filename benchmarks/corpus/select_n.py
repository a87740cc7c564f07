"""Does the chosen N match the make-up of a corpus? Rules against the truth on mixes of real corpora.

`python benchmarks/corpus/select_n.py` writes benchmarks/results/select_n.json and prints its tables.
"""

import argparse
import hashlib
import json
import multiprocessing
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import corpus_mixes as mixes
import numpy as np
from elbow_rules import RULES
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from analysis.clusters.choice.selection import select_num_clusters, source_weights
from analysis.clusters.heterogeneity import measure_heterogeneity
from analysis.clusters.kmeans import sweep_kmeans
from analysis.features.lsa import TfidfLsa

RESULT = Path(__file__).parents[1] / "results" / "select_n.json"
CONSTANT = 5
RATIOS = (1, 10)


def answers(texts: list[str], labels: np.ndarray, rules: tuple[str, ...], sources: np.ndarray | None = None) -> dict:
    """What each rule says about one corpus."""
    features = TfidfLsa(random_state=0).fit(texts).transform(texts)
    weights = None if sources is None else source_weights(sources)
    sweep = sweep_kmeans(features, sample_weight=weights)
    choice = select_num_clusters(features, sweep, texts)
    raw = {rule: int(sweep.n_clusters[int(np.argmax(RULES[rule](features, sweep)))]) for rule in rules}
    return {
        "choice": choice.value,
        "structure": choice.structure,
        "interval": choice.interval,
        "sharpness": choice.sharpness,
        "stability": choice.stability,
        "strength": choice.evidence.strength,
        "ari": adjusted_rand_score(labels, sweep.labels[sweep.index(choice.value)]),
        **{f"rule {rule}": value for rule, value in raw.items()},
        f"constant {CONSTANT}": CONSTANT,
    }


def draws(family: "Family", text: str, rules: tuple[str, ...]) -> list[dict]:
    rows = []
    for ratio in RATIOS:
        for n_parts in family.parts:
            for repeat in range(family.draws):
                mix = mixes.draw(family.pool, n_parts, family.n, ratio, (n_parts, repeat, ratio, 11))
                row = {"true": n_parts, "ratio": ratio, **answers(mix.texts(text), mix.labels, rules)}
                if ratio > 1:
                    balanced = answers(mix.texts(text), mix.labels, (), sources=mix.labels)
                    row["choice, sources known"] = balanced["choice"]
                rows.append(row)
    return rows


def single(pool: mixes.Pool, text: str, n: int = 2000) -> list[dict]:
    """One task alone: the truth is 1."""
    rows = []
    for name in sorted(pool):
        mix = mixes.draw({name: pool[name]}, 1, n, 1, (1,))
        rows.append({"name": name, "true": 1, "n": len(mix.labels), **answers(mix.texts(text), mix.labels, ())})
    return rows


def shuffled(pool: mixes.Pool, text: str, n: int = 1000, draws: int = 12) -> list[dict]:
    rows = []
    for repeat in range(draws):
        mix = mixes.draw(pool, 2 + repeat % 6, n, 1, (repeat, 9))
        texts = mixes.shuffle_words(mix.texts(text), (repeat, 10))
        rows.append({"true": 1, **answers(texts, np.zeros(len(texts), int), ())})
    return rows


def reordered(pool: mixes.Pool, text: str, draws: int = 12) -> list[int]:
    """How far N moves when the same documents come in another order."""
    moves = []
    for repeat in range(draws):
        mix = mixes.draw(pool, 2 + repeat % 6, 1000, 1, (repeat, 12))
        texts = mix.texts(text)
        order = np.random.default_rng(repeat).permutation(len(texts))
        first = answers(texts, mix.labels, ())["choice"]
        moves.append(abs(first - answers([texts[i] for i in order], mix.labels[order], ())["choice"]))
    return moves


def summary(rows: list[dict], key: str) -> dict:
    """Mean |N - true| with a bootstrap interval, and how often exact and within one."""
    errors = np.array([row[key] - row["true"] for row in rows])
    random = np.random.default_rng(0)
    means = np.abs(errors)[random.integers(0, len(errors), (2000, len(errors)))].mean(axis=1)
    return {
        "mean_error": round(float(np.abs(errors).mean()), 2),
        "interval": [round(float(x), 2) for x in np.quantile(means, [0.025, 0.975])],
        "bias": round(float(errors.mean()), 2),
        "exact": round(float((errors == 0).mean()), 3),
        "within_one": round(float((np.abs(errors) <= 1).mean()), 3),
        "draws": len(errors),
    }


def summaries(rows: list[dict]) -> dict:
    keys = [key for key in rows[0] if key.startswith(("choice", "rule", "constant"))]
    holds = [row["interval"][0] <= row["true"] <= row["interval"][1] for row in rows]
    wrong = np.array([abs(row["choice"] - row["true"]) > 1 for row in rows])
    return {
        **{key: summary(rows, key) for key in keys},
        "ari": round(float(np.mean([row["ari"] for row in rows])), 3),
        "interval holds the truth": round(float(np.mean(holds)), 3),
        "interval width": round(float(np.mean([row["interval"][1] - row["interval"][0] for row in rows])), 2),
        "auc": {name: auc([row[name] for row in rows], ~wrong) for name in ("sharpness", "stability")},
    }


def auc(confidence: list[float], right: np.ndarray) -> float | None:
    """How well a confidence tells answers within one of the truth from others."""
    known = ~np.isnan(confidence)
    if right[known].all() or not right[known].any():
        return None
    return round(float(roc_auc_score(right[known], np.array(confidence)[known])), 2)


@dataclass(frozen=True)
class Family:
    """Mixes of one pool: how many parts, draws of each, documents of each draw."""

    pool: mixes.Pool
    parts: range
    draws: int
    n: int


def families() -> dict[str, Family]:
    domains_dev, domains_held = mixes.split(mixes.domains())
    datasets_dev, datasets_held = mixes.split(mixes.datasets())
    return {
        "development: domains": Family(domains_dev, range(2, 8), 4, 2000),
        "development: data sets": Family(datasets_dev, range(2, 11), 3, 1000),
        "development: legal tasks": Family(mixes.legal_tasks(), range(2, 11), 2, 1000),
        "held out: domains": Family(domains_held, range(2, 8), 4, 2000),
        "held out: data sets": Family(datasets_held, range(2, 11), 4, 1000),
        "held out: BBH tasks": Family(mixes.bbh_tasks(), range(2, 11), 3, 500),
        "held out: MMLU subjects": Family(mixes.mmlu_subjects(), range(2, 11), 3, 1000),
    }


def mixed_corpora(name: str, text: str) -> dict:
    """Rules against the truth for one family."""
    family = families()[name]
    rows = draws(family, text, tuple(RULES) if text == "prompt" else ("l_method",))
    return {f"{name}, {ratio}:1, {text}": summaries([row for row in rows if row["ratio"] == ratio]) for ratio in RATIOS}


def four_domains(name: str, text: str) -> dict:
    pool = {domain: mixes.domains()[domain] for domain in ("math", "medical", "law", "code")}
    found = []
    for n in (1000, 3000):
        for repeat in range(15):
            mix = mixes.draw(pool, 4, n, 1, (n, repeat))
            found.append(answers(mix.texts(text), mix.labels, ())["choice"])
    return {f"{name}, {text}": {"draws": len(found), "answers": found}}


def one_part(name: str, text: str) -> dict:
    """Corpora whose answer should be 1."""
    if name == "shuffled words":
        rows = [
            row for pool in ("development", "held out") for row in shuffled(families()[f"{pool}: data sets"].pool, text)
        ]
    else:
        rows = single(one_part_pools()[name], text)
    found = [row["choice"] for row in rows]
    return {
        f"{name}, {text}": {
            "draws": len(found),
            "one": round(float(np.mean(np.array(found) == 1)), 3),
            "others": {row["name"]: row["choice"] for row in rows if row["choice"] != 1 and "name" in row},
            "strength": sorted(round(row["strength"], 2) for row in rows),
        }
    }


def one_part_pools() -> dict[str, mixes.Pool]:
    development, held_out = mixes.split(mixes.single_tasks())
    bbh = {name: documents for name, documents in mixes.bbh_tasks().items() if name != "multistep_arithmetic_two"}
    return {
        "development: one task": development,
        "held out: one task": held_out,
        "development: one legal task": mixes.legal_tasks(),
        "held out: one BBH task": bbh,  # without one that has no word
    }


def whole_corpora(name: str, text: str) -> dict:
    """Corpora of many parts, as a user would throw them together: all six, and five, in equal parts and as they are."""
    corpora = mixes.whole_corpora()
    rows = []
    for left_out in (None, *corpora):
        pool = {corpus: documents for corpus, documents in corpora.items() if corpus != left_out}
        together = {"together": [document for documents in pool.values() for document in documents]}
        for sizes, mix in (
            ("equal", mixes.draw(pool, len(pool), 2000, 1, (1,))),
            ("as they are", mixes.draw(together, 1, 2000, 1, (1,))),
        ):
            row = answers(mix.texts(text), mix.labels, ())
            rows.append({"left out": left_out, "sizes": sizes, **{key: row[key] for key in ("choice", "strength")}})
    return {f"{name}, {text}": {"several": sum(row["choice"] > 1 for row in rows), "draws": len(rows), "rows": rows}}


def other_order(name: str, text: str) -> dict:
    return {f"{name}, {text}": reordered(families()["held out: data sets"].pool, text)}


def heterogeneity(name: str, text: str) -> dict:
    """The index for ever more data sets at the same number of documents, as they are and with words shuffled."""
    pool = families()["held out: data sets"].pool
    rows = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(sorted(pool))
        for n_parts in (1, 2, 4, 6, 9, 12):
            mix = mixes.draw({str(part): pool[part] for part in order[:n_parts]}, n_parts, 900, 1, (seed,))
            texts = mix.texts(text)
            row = {"seed": seed, "data sets": n_parts}
            for kind, version_of in (("as it is", texts), ("shuffled", mixes.shuffle_words(texts, (seed,)))):
                features = TfidfLsa().fit(version_of).transform(version_of)
                row[kind] = round(measure_heterogeneity(features).index, 3)
            rows.append(row)
    return {f"{name}, {text}": rows}


def tasks() -> list[tuple[Callable[[str, str], dict], str, str]]:
    mixed = [(mixed_corpora, name, "prompt") for name in families()]
    mixed += [(mixed_corpora, name, "both") for name in families() if "data sets" in name or "domains" in name]
    texts = ("prompt", "both")
    rest = [(four_domains, "four domains", text) for text in texts]
    rest += [(one_part, name, text) for name in (*one_part_pools(), "shuffled words") for text in texts]
    rest += [(whole_corpora, "development: whole corpora", "prompt")]
    rest += [(other_order, "change of N in another order", "prompt"), (heterogeneity, "heterogeneity", "prompt")]
    return [*mixed, *rest]


def run(task: tuple[Callable[[str, str], dict], str, str]) -> tuple[dict, float]:
    measure, name, text = task
    start = time.process_time()
    return measure(name, text), time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    results: dict = {}
    seconds = 0.0
    spawn = multiprocessing.get_context("spawn")  # polars does not survive a fork
    with ProcessPoolExecutor(arguments.workers, mp_context=spawn) as pool:
        for result, cpu in pool.map(run, tasks()):
            results |= result
            seconds += cpu
            print(json.dumps(result), flush=True)
    files = sorted(mixes.CORPORA.glob("*.parquet"))
    environment = {
        "cpu_seconds": round(seconds),
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{package: version(package) for package in ("numpy", "scikit-learn", "numba", "kneed", "polars")},
        "corpora": {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files},
        "split_seed": mixes.SPLIT_SEED,
        "parts": {name: sorted(family.pool) for name, family in families().items()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"results": results, "environment": environment}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
