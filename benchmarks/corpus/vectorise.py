"""TF-IDF against scikit-learn's TfidfVectorizer on real corpora: CPU seconds, vocabulary, weights, cold start.

    OMP_NUM_THREADS=1 python benchmarks/corpus/vectorise.py

Reads `HYDRALORA_CORPORA` (default `../shared/corpora`), writes results/vectorise.json.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
from sklearn.feature_extraction.text import TfidfVectorizer

from analysis.features.lsa import TfidfLsa
from analysis.text.terms.tfidf import Tfidf

RESULT = Path(__file__).parents[1] / "results" / "vectorise.json"
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", Path(__file__).resolve().parents[3] / "shared" / "corpora"))
NAMES = ("dolly15k", "flan10", "gsm8k", "legalbench", "mbxp", "medquad")
SETTINGS = {
    "all terms": {"min_df": 1, "max_features": None, "sublinear_tf": False},
    "min_df=2, 20,000 terms, sublinear": {"min_df": 2, "max_features": 20_000, "sublinear_tf": True},
}
REPEATS = 5
COLD_START = """
import time
start = time.process_time()
from analysis.features.lsa import TfidfLsa
TfidfLsa(2).fit(["some words here", "some other words", "naïve words"]).transform(["some wörds"])
print(time.process_time() - start)
"""


def corpus() -> pl.Series:
    tables = [pl.read_parquet(CORPORA / f"{name}_train.parquet") for name in NAMES]
    text = pl.concat_str("instruction", "input", "output", separator="\n", ignore_nulls=True)
    return pl.concat([table.select(text=text) for table in tables]).to_series()


def cpu_seconds(*functions: Callable[[], Any]) -> list[float]:
    """The least of several runs of each function; runs alternate, so that a busy machine is busy for all."""
    least = [float("inf")] * len(functions)
    for _ in range(REPEATS):
        for i, function in enumerate(functions):
            start = time.process_time()
            function()
            least[i] = min(least[i], time.process_time() - start)
    return least


def compare(texts: pl.Series, settings: dict[str, Any]) -> dict[str, Any]:
    strings = texts.to_list()
    ours, theirs = Tfidf(**settings), TfidfVectorizer(**settings, dtype=np.float32)
    fitted, expected = ours.fit_transform(texts), theirs.fit_transform(strings)
    differing = set(ours.vocabulary_) ^ set(theirs.get_feature_names_out())
    result: dict[str, Any] = {"n_terms": len(ours.vocabulary_), "terms_in_one_vocabulary_only": len(differing)}
    if differing:
        # Terms as frequent as the last one kept; which of them are kept is arbitrary. Compare on one vocabulary.
        theirs = TfidfVectorizer(vocabulary=ours.vocabulary_, sublinear_tf=settings["sublinear_tf"], dtype=np.float32)
        expected = theirs.fit_transform(strings)
    result["max_weight_difference"] = float(abs(fitted - expected).max())
    result["max_weight_difference_transform"] = float(abs(ours.transform(texts) - theirs.transform(strings)).max())
    theirs = TfidfVectorizer(**settings, dtype=np.float32).fit(strings)
    fit, their_fit, transform, their_transform = cpu_seconds(
        lambda: ours.fit_transform(texts),
        lambda: theirs.fit_transform(strings),
        lambda: ours.transform(texts),
        lambda: theirs.transform(strings),
    )
    megabytes = texts.str.len_bytes().sum() / 1e6
    return result | {
        "fit_transform_cpu_seconds": fit,
        "fit_transform_cpu_seconds_scikit_learn": their_fit,
        "fit_transform_ratio": their_fit / fit,
        "transform_cpu_seconds": transform,
        "transform_cpu_seconds_scikit_learn": their_transform,
        "transform_ratio": their_transform / transform,
        "transform_megabytes_a_cpu_second": megabytes / transform,
    }


def cold_start() -> dict[str, float]:
    """CPU seconds from the import to the first rows, without and with the kernels in numba's cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        command = [sys.executable, "-c", COLD_START]
        runs = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
    first, second = (float(run.stdout) for run in runs)
    return {"first_ever": first, "cached": second}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    texts = corpus()
    features = TfidfLsa().fit(texts)
    features.transform(texts)
    lsa_fit, lsa = cpu_seconds(lambda: TfidfLsa().fit(texts), lambda: features.transform(texts))
    megabytes = texts.str.len_bytes().sum() / 1e6
    result = {
        "documents": len(texts),
        "megabytes": megabytes,
        "documents_with_non_ascii": int((texts.str.len_bytes() != texts.str.len_chars()).sum()),
        "tfidf": {name: compare(texts, settings) for name, settings in SETTINGS.items()},
        "lsa": {
            "fit_cpu_seconds": lsa_fit,
            "transform_cpu_seconds": lsa,
            "transform_megabytes_a_cpu_second": megabytes / lsa,
            "transform_documents_a_cpu_second": len(texts) / lsa,
        },
        "cold_start_cpu_seconds": cold_start(),
        "repeats": REPEATS,
        "data": {n: hashlib.sha256((CORPORA / f"{n}_train.parquet").read_bytes()).hexdigest() for n in NAMES},
        "versions": {n: metadata.version(n) for n in ("numba", "numpy", "polars", "pyarrow", "scikit-learn", "scipy")},
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "threads": os.environ["OMP_NUM_THREADS"]},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
