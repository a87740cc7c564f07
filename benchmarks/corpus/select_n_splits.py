"""How often N is right over 40 splits of the pool, how N depends on size, seed and order, and how likely N = 1 is.

    POLARS_MAX_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/corpus/select_n_splits.py

writes benchmarks/results/select_n_splits.json after each part, and skips parts that the file has. The rule was tuned on
one development half (select_n.py) and on none of these splits; but each split's held-out half has parts
that were in that half.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus_mixes as mixes
import numpy as np
from select_n import one_part_pools

from analysis.clusters.choice.selection import select_num_clusters
from analysis.clusters.kmeans import sweep_kmeans
from analysis.features.lsa import TfidfLsa
from hydralora.training.outputs.record import write_json

RESULT = Path(__file__).parents[1] / "results" / "select_n_splits.json"
SPLITS = range(40)
SEEDS = 20
SIZES = (64, 128, 192, 256, 384, 512, 1024)


def answer(texts: list[str], random_state: int = 0) -> dict[str, Any]:
    """N of one corpus, and the evidence behind it."""
    features = TfidfLsa(random_state=random_state).fit(texts).transform(texts)
    sweep = sweep_kmeans(features, random_state=random_state)
    choice = select_num_clusters(features, sweep, texts, random_state=random_state)
    return {
        "n": choice.value,
        "documents": len(texts),
        "words": choice.evidence.n_words,
        "strength": round(choice.evidence.strength, 4),
        "interval": choice.interval,
    }


def over_splits(name: str, ratio: float) -> list[dict[str, Any]]:
    """Mixes of the held-out half of each split."""
    pool, parts, n = {"data sets": (mixes.datasets(), 11, 1000), "domains": (mixes.domains(), 8, 2000)}[name]
    rows = []
    for seed in SPLITS:
        held_out = mixes.split(pool, seed)[1]
        for n_parts in range(2, min(parts, len(held_out) + 1)):
            mix = mixes.draw(held_out, n_parts, n, ratio, (seed, n_parts, 31))
            rows.append({"split": seed, "true": n_parts, **answer(mix.texts("prompt"))})
    return rows


def by_size() -> list[dict[str, Any]]:
    """Development parts only: mixes of two to six data sets, and single tasks, of ever more documents."""
    development = mixes.split(mixes.datasets())[0]
    single = one_part_pools()["development: one task"]
    rows = []
    for size in SIZES:
        for repeat in range(3):
            for n_parts in range(2, 7):
                mix = mixes.draw(development, n_parts, size, 1, (repeat, n_parts, size, 37))
                rows.append({"size": size, "true": n_parts, **answer(mix.texts("prompt"))})
        for name in sorted(single):
            if len(single[name]) >= size:
                mix = mixes.draw({name: single[name]}, 1, size, 1, (size, 41))
                rows.append({"size": size, "true": 1, "name": name, **answer(mix.texts("prompt"))})
    return rows


def by_seed() -> list[dict[str, Any]]:
    """Mixes and single tasks, none of them of the development half, with other seeds and orders of the documents."""
    data_sets = mixes.split(mixes.datasets())[1]
    single = one_part_pools()["held out: one task"]
    corpora = [mixes.draw(data_sets, 2 + i % 5, 1000, 1, (i, 43)) for i in range(8)]
    corpora += [mixes.draw({name: single[name]}, 1, 1000, 1, (47,)) for name in sorted(single)[::9]]
    rows = []
    for number, mix in enumerate(corpora):
        texts = mix.texts("prompt")
        found = []
        for seed in range(SEEDS):
            order = np.random.default_rng(seed).permutation(len(texts))
            found.append(answer([texts[i] for i in order], seed)["n"])
        rows.append({"corpus": number, "true": len(mix.names), "parts": mix.names, "n": found})
    return rows


def one_task() -> list[dict[str, Any]]:
    """All single tasks, with the evidence: of each half, and of BIG-Bench Hard."""
    rows = []
    for pool, tasks in one_part_pools().items():
        for name in sorted(tasks):
            mix = mixes.draw({name: tasks[name]}, 1, 2000, 1, (1,))
            rows.append({"pool": pool, "name": name, "true": 1, **answer(mix.texts("prompt"))})
    return rows


PARTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "one task": one_task,
    "40 splits, data sets, 1:1": lambda: over_splits("data sets", 1),
    "by size, development": by_size,
    "by seed and order": by_seed,
    "40 splits, data sets, 10:1": lambda: over_splits("data sets", 10),
    "40 splits, domains, 1:1": lambda: over_splits("domains", 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    arguments = parser.parse_args()
    output: Path = arguments.output
    found: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"cpu_seconds": {}}
    for name, measure in PARTS.items():
        if name in found or name not in arguments.only:
            continue
        start = time.process_time()
        found[name] = measure()
        found["cpu_seconds"][name] = round(time.process_time() - start)
        write_json(output, found)
        print(name, len(found[name]), "corpora", found["cpu_seconds"][name], "s", flush=True)


if __name__ == "__main__":
    main()
