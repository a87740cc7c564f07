"""Does the chosen N match the make-up of a corpus? Rules against the truth on mixes of real corpora.

`python benchmarks/select_n.py` writes benchmarks/results/select_n.json and prints its tables.
"""

import argparse
import hashlib
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

import corpus_mixes as mixes
import numpy as np
import sklearn
from sklearn.metrics import adjusted_rand_score

from analysis.clustering import sweep_kmeans
from analysis.features import TfidfLsa
from analysis.rules import RULES
from analysis.selection import select_num_clusters, source_weights

RESULT = Path(__file__).parent / "results" / "select_n.json"
CONSTANT = 5
RATIOS = (1, 10)


def answers(texts: list[str], labels: np.ndarray, rules: tuple[str, ...], sources: np.ndarray | None = None) -> dict:
    """What each rule says about one corpus."""
    features = TfidfLsa(random_state=0).fit(texts).transform(texts)
    weights = None if sources is None else source_weights(sources)
    sweep = sweep_kmeans(features, sample_weight=weights)
    choice = select_num_clusters(features, sweep)
    raw = {rule: int(sweep.n_clusters[int(np.argmax(RULES[rule](features, sweep)))]) for rule in rules}
    return {
        "choice": choice.value,
        "structure": choice.structure,
        "interval": choice.interval,
        "sharpness": choice.sharpness,
        "stability": choice.stability,
        "excess": choice.evidence.explained - choice.evidence.explained_by_chance,
        "overlap": choice.evidence.overlap,
        "ari": adjusted_rand_score(labels, sweep.labels[sweep.index(choice.value)]),
        **{f"rule {rule}": value for rule, value in raw.items()},
        f"constant {CONSTANT}": CONSTANT,
    }


def family(pool: mixes.Pool, parts: range, draws: int, n: int, text: str, rules: tuple[str, ...]) -> list[dict]:
    rows = []
    for ratio in RATIOS:
        for n_parts in parts:
            for repeat in range(draws):
                mix = mixes.draw(pool, n_parts, n, ratio, (n_parts, repeat, ratio, 11))
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


def shuffled(pool: mixes.Pool, text: str, n: int, draws: int = 10) -> list[dict]:
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
    return {key: summary(rows, key) for key in keys}


def measure() -> dict:
    rules = tuple(RULES)
    domains_dev, domains_held = mixes.split(mixes.domains())
    datasets_dev, datasets_held = mixes.split(mixes.datasets())
    families = {
        "development: domains": (domains_dev, range(2, 8), 6, 2000),
        "development: data sets": (datasets_dev, range(2, 11), 5, 1000),
        "development: legal tasks": (mixes.legal_tasks(), range(2, 11), 4, 1000),
        "held out: domains": (domains_held, range(2, 8), 6, 2000),
        "held out: data sets": (datasets_held, range(2, 11), 5, 1000),
        "held out: BBH tasks": (mixes.bbh_tasks(), range(2, 11), 4, 500),
        "held out: MMLU subjects": (mixes.mmlu_subjects(), range(2, 11), 4, 1000),
    }
    result: dict = {"parts": {name: sorted(pool) for name, (pool, *_) in families.items()}, "mixes": {}, "single": {}}
    for name, arguments in families.items():
        for text in ("prompt", "both"):
            start = time.process_time()
            rows = family(*arguments, text, rules if text == "prompt" else ("l_method",))
            for ratio in RATIOS:
                chosen = [row for row in rows if row["ratio"] == ratio]
                entry = summaries(chosen)
                entry["ari"] = round(float(np.mean([row["ari"] for row in chosen])), 3)
                entry["interval holds true"] = round(
                    float(np.mean([row["interval"][0] <= row["true"] <= row["interval"][1] for row in chosen])), 3
                )
                result["mixes"][f"{name}, {ratio}:1, {text}"] = entry
                print(f"{name}, {ratio}:1, {text} ({time.process_time() - start:.0f} s, ari {entry['ari']})")
                for key, value in entry.items():
                    if isinstance(value, dict):
                        print(f"   {key:28s}", *value.values())
            result.setdefault("rows", {})[f"{name}, {text}"] = rows
    four = {name: mixes.domains()[name] for name in ("math", "medical", "law", "code")}
    for text in ("prompt", "both"):
        found = [
            answers((mix := mixes.draw(four, 4, n, 1, (n, repeat))).texts(text), mix.labels, ())["choice"]
            for n in (1000, 3000)
            for repeat in range(20)
        ]
        result["single"][f"four domains, {text}"] = {"draws": len(found), "answers": found}
        print("four domains", text, np.mean(np.array(found) == 4))
        for name, rows in {
            "one task": single(mixes.single_tasks(), text),
            "one legal task": single(mixes.legal_tasks(), text),
            "shuffled words, development": shuffled(domains_dev, text, 2000),
            "shuffled words, held out": shuffled(datasets_held, text, 1000),
        }.items():
            result["single"][f"{name}, {text}"] = rows
            wrong = [(row.get("name"), row["choice"]) for row in rows if row["choice"] != 1]
            print(f"{name}, {text}: N=1 in {np.mean([row['choice'] == 1 for row in rows]):.3f} of {len(rows)}; {wrong}")
    result["single"]["another order: change of N"] = reordered(datasets_held, "prompt")
    print("another order", result["single"]["another order: change of N"])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    start = time.process_time()
    result = measure()
    files = sorted(mixes.CORPORA.glob("*.parquet"))
    result["environment"] = {
        "cpu_seconds": round(time.process_time() - start),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "numba": version("numba"),
        "machine": platform.machine(),
        "corpora": {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files},
        "split_seed": mixes.SPLIT_SEED,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
