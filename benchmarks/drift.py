"""Does `measure_drift` see documents of a subject that the corpus lacks, and only those? Writes results/drift.json.

    OMP_NUM_THREADS=1 python benchmarks/drift.py

Each of six corpora is left out in turn: the corpus model is fitted on prompts of the other five, a tenth of them held
out. The new ones are 500 test prompts of the five in equal parts, of which a growing share is replaced by prompts of
the corpus that was left out; then the whole test sets of the five, in their own, other mix.
"""

import argparse
import hashlib
import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from analysis.clusters.corpus_model import AssignedBlock, CorpusModel
from analysis.clusters.drift import measure_drift, summarise, summarise_corpus
from analysis.clusters.kmeans import sweep_kmeans
from analysis.features.lsa import TfidfLsa
from analysis.features.vectoriser import TextStatistics

RESULT = Path(__file__).parent / "results" / "drift.json"
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", Path(__file__).resolve().parents[2] / "shared" / "corpora"))
NAMES = ("dolly15k", "flan10", "gsm8k", "legalbench", "mbxp", "medquad")
SHARES = (0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1)
N_CLUSTERS = 6
N_NEW = 500
N_TRAIN = (4000, 800)
BLOCK_ARRAYS = ("labels", "squared_distances", "explained")
SEED = 0


def texts(name: str, split: str, n: int) -> list[str]:
    prompt = pl.concat_str("instruction", "input", separator="\n", ignore_nulls=True)
    documents = pl.read_parquet(CORPORA / f"{name}_{split}.parquet").select(text=prompt).to_series()
    return documents.sample(min(n, len(documents)), seed=SEED).to_list()


def one_block(blocks: list[AssignedBlock]) -> AssignedBlock:
    parts = {name: np.concatenate([getattr(block, name) for block in blocks]) for name in BLOCK_ARRAYS}
    return AssignedBlock(**parts, statistics=sum((block.statistics for block in blocks), TextStatistics()))


def leave_out(left_out: str, n_train: int) -> list[dict[str, Any]]:
    others = [name for name in NAMES if name != left_out]
    corpus = pl.Series([text for name in others for text in texts(name, "train", n_train)])
    is_held_out = np.arange(len(corpus)) % 10 == 0
    fitted = corpus.filter(~is_held_out)
    features = TfidfLsa().fit(fitted)
    model = CorpusModel(features, sweep_kmeans(features.transform(fitted), [N_CLUSTERS]).centers[0])
    reference = summarise_corpus(one_block(list(model.stream([corpus]))), is_held_out, N_CLUSTERS)
    rng = np.random.default_rng(SEED)
    known = [text for name in others for text in texts(name, "test", 400)]
    unknown = texts(left_out, "test", 400)
    streams: dict[str, list[str]] = {}
    for share in SHARES:
        n_unknown = round(share * N_NEW)
        streams[f"{share:.0%} new"] = [*rng.choice(known, N_NEW - n_unknown), *rng.choice(unknown, n_unknown)]
    streams["other mix"] = [text for name in others for text in texts(name, "test", 10_000)]
    rows = []
    for kind, new in streams.items():
        drift = measure_drift(reference, summarise(model.stream([new]), N_CLUSTERS))
        rows.append({"left_out": left_out, "stream": kind, **vars(drift)})
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    result: dict[str, Any] = {"runs": {}}
    for n_train in N_TRAIN:
        rows = [row for name in NAMES for row in leave_out(name, n_train)]
        result["runs"][f"{n_train} training prompts of each corpus"] = rows
        for kind in dict.fromkeys(row["stream"] for row in rows):
            at = [row for row in rows if row["stream"] == kind]
            figures = {name: [round(row[name], 3) for row in at] for name in ("novelty", "mix_shift", "distance_ratio")}
            print(n_train, kind, "reconsider", sum(row["reconsider"] for row in at), figures)
    files = sorted(path for name in NAMES for path in CORPORA.glob(f"{name}_t*.parquet"))
    result |= {
        "seed": SEED,
        "data": {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files},
        "versions": {n: metadata.version(n) for n in ("numba", "numpy", "scikit-learn")},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
