"""Does `measure_drift` see documents of a subject that the corpus lacks, and only those? Writes results/drift.json.

    OMP_NUM_THREADS=1 python benchmarks/drift.py

Each of six corpora is held out in turn: the corpus model is fitted on the other five, and 500 of their test documents,
of which a growing share is replaced by documents of the held-out corpus, are the new ones.
"""

import argparse
import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from analysis.clustering import sweep_kmeans
from analysis.corpus_model import CorpusModel
from analysis.drift import measure_drift, summarise
from analysis.features import TfidfLsa

RESULT = Path(__file__).parent / "results" / "drift.json"
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", Path(__file__).resolve().parents[2] / "shared" / "corpora"))
NAMES = ("dolly15k", "flan10", "gsm8k", "legalbench", "mbxp", "medquad")
SHARES = (0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1)
N_CLUSTERS = 6
N_NEW = 500
SEED = 0


def texts(name: str, split: str, n: int) -> list[str]:
    text = pl.concat_str("instruction", "input", "output", separator="\n", ignore_nulls=True)
    documents = pl.read_parquet(CORPORA / f"{name}_{split}.parquet").select(text=text).to_series()
    return documents.sample(min(n, len(documents)), seed=SEED).to_list()


def hold_out(held_out: str) -> list[dict[str, Any]]:
    others = [name for name in NAMES if name != held_out]
    corpus = [text for name in others for text in texts(name, "train", 4000)]
    features = TfidfLsa().fit(corpus)
    model = CorpusModel(features, sweep_kmeans(features.transform(corpus), [N_CLUSTERS]).centers[0])
    reference = summarise(model.stream([corpus]), N_CLUSTERS)
    rng = np.random.default_rng(SEED)
    known = [text for name in others for text in texts(name, "test", 400)]
    unknown = texts(held_out, "test", 400)
    rows = []
    for share in SHARES:
        n_unknown = round(share * N_NEW)
        new = [*rng.choice(known, N_NEW - n_unknown), *rng.choice(unknown, n_unknown)]
        drift = measure_drift(reference, summarise(model.stream([new]), N_CLUSTERS))
        rows.append({"held_out": held_out, "share": share, **vars(drift)})
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = [row for name in NAMES for row in hold_out(name)]
    for share in SHARES:
        at = [row for row in rows if row["share"] == share]
        figures = {name: [round(row[name], 3) for row in at] for name in ("novelty", "distance_ratio")}
        print(share, sum(row["reconsider"] for row in at), figures)
    result = {
        "rows": rows,
        "seed": SEED,
        "versions": {n: metadata.version(n) for n in ("numba", "numpy", "scikit-learn")},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
