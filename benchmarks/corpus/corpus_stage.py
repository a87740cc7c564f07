"""The whole corpus stage, from files to N, on 15,000 documents of four domains; CPU seconds of a warm process.

    OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 python benchmarks/corpus/corpus_stage.py

Reads `HYDRALORA_CORPORA` (default `../shared/corpora`), writes results/corpus_stage.json.
"""

import argparse
import hashlib
import json
import os
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl

from analysis.clusters.choice.selection import select_num_clusters, source_weights
from analysis.clusters.kmeans import sweep_kmeans
from analysis.corpus.cleaning import CleanConfig, clean
from analysis.corpus.document_text import document_text
from analysis.features.lsa import TfidfLsa
from analysis.sources import FilesSource, Source, read_sources

RESULT = Path(__file__).parents[1] / "results" / "corpus_stage.json"
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", Path(__file__).resolve().parents[3] / "shared" / "corpora"))
NAMES = ("gsm8k", "medquad", "legalbench", "mbxp")
N_PER_SOURCE = 3750
REPEATS = 5
SEED = 0


def stage(sources: dict[str, Source], config: CleanConfig) -> dict[str, Any]:
    """CPU seconds of each step, and N."""
    seconds: dict[str, float] = {}
    start = time.process_time()

    def lap(step: str) -> None:
        seconds[step] = time.process_time() - start - sum(seconds.values())

    records = read_sources(sources).records
    lap("read")
    documents = clean(records, config).documents.collect().filter(pl.col("split") == "train")
    lap("clean")
    texts = documents.select(text=document_text())["text"]
    rows = TfidfLsa().fit(texts).transform(texts)
    lap("features")
    sweep = sweep_kmeans(rows, sample_weight=source_weights(documents["source"]))
    lap("sweep")
    choice = select_num_clusters(rows, sweep, texts)
    lap("choice")
    return {"seconds": seconds, "total": sum(seconds.values()), "documents": len(documents), "n_clusters": choice.value}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources: dict[str, Source] = {}
        for name in NAMES:
            path = Path(folder) / f"{name}.parquet"
            table = pl.read_parquet(CORPORA / f"{name}_train.parquet").drop("split")
            table.sample(N_PER_SOURCE, seed=SEED).write_parquet(path)
            sources[name] = FilesSource((str(path),))
        settings = {"all steps": CleanConfig(), "without languages": CleanConfig(detect_language=False)}
        stage(sources, CleanConfig())  # compiles
        runs = {name: [stage(sources, config) for _ in range(REPEATS)] for name, config in settings.items()}
    best = {name: min(of, key=lambda run: run["total"]) for name, of in runs.items()}
    result = {
        "best": best,
        "totals": {name: np.round([run["total"] for run in of], 3).tolist() for name, of in runs.items()},
        "records": N_PER_SOURCE * len(NAMES),
        "seed": SEED,
        "load": os.getloadavg()[0],
        "data": {n: hashlib.sha256((CORPORA / f"{n}_train.parquet").read_bytes()).hexdigest() for n in NAMES},
        "versions": {n: metadata.version(n) for n in ("numba", "numpy", "polars", "scikit-learn")},
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "threads": os.environ["OMP_NUM_THREADS"]},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
