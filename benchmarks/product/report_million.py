"""The report of a million documents: seconds, memory, size of the page, and how fast it opens.

    python benchmarks/product/report_million.py

Resamples the six corpora to a million documents, gives each a cluster (its corpus) and random features around it, and
passes them through the code of the asset `report`; nothing is trained. Needs Chromium for the time to open. Writes
results/report_million.json.
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from analysis.report import ReportInputs, write_report
from analysis.report.document_map import document_map

REPOSITORY = Path(__file__).resolve().parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "report_million.json"
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", REPOSITORY.parent / "shared" / "corpora"))
NAMES = ("dolly15k", "flan10", "gsm8k", "legalbench", "mbxp", "medquad")
SEED = 0
COMPONENTS = 32


def write_documents(path: Path, n_documents: int) -> None:
    """A documents table with clusters: corpora drawn with replacement."""
    tables = [pl.read_parquet(CORPORA / f"{name}_train.parquet") for name in NAMES]
    real = pl.concat(
        [
            table.select(
                source=pl.lit(name),
                cluster=pl.lit(i),
                prompt=pl.concat_str("instruction", "input", separator="\n", ignore_nulls=True),
                completion="output",
            )
            for i, (name, table) in enumerate(zip(NAMES, tables, strict=True))
        ]
    )
    # A hundredth at a time, so that a million texts are never in memory at once.
    with tempfile.TemporaryDirectory() as folder:
        for part in range(100):
            drawn = real.sample(n_documents // 100, with_replacement=True, seed=SEED + part)
            ids = pl.Series([f"{part:04x}{i:012x}" for i in range(len(drawn))])
            drawn.with_columns(document_id=ids).write_parquet(Path(folder) / f"{part:02d}.parquet")
        pl.scan_parquet(f"{folder}/*.parquet").sink_parquet(path)


def report_of(documents: pl.LazyFrame, features: np.ndarray) -> ReportInputs:
    """What depends on the number of documents: the map and the clusters."""
    clusters = documents.group_by("cluster").agg(n_documents=pl.len()).sort("cluster").collect(engine="streaming")
    composition = documents.group_by("cluster", "source").agg(n_documents=pl.len()).collect(engine="streaming")
    return ReportInputs(
        title="A million documents",
        command="python benchmarks/product/report_million.py",
        cluster_map=document_map(documents, features),
        n_documents=len(features),
        clusters=clusters.with_columns(top_terms=pl.lit(["one", "two"], pl.List(pl.String))),
        composition=composition.sort("cluster", "source"),
    )


def milliseconds_to_open(page_file: Path, repeats: int = 5) -> list[float]:
    """Wall times until the page is loaded, its script included, in headless Chromium."""
    sys.path.insert(0, str(REPOSITORY / "tests" / "browser"))
    from chromium import chromium_page

    with tempfile.TemporaryDirectory() as profile, chromium_page(Path(profile)) as page:
        page.open(page_file, width=1280)
        times = []
        for _ in range(repeats):
            page.reload()
            times.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
        count = page.evaluate("document.getElementById('map-count').textContent")
        if count != "15,000 of 15,000 points shown" or page.complaints:
            raise RuntimeError(f"expected a map of 15,000 points and no complaint, got {count!r}, {page.complaints}")
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    n_documents: int = parser.parse_args().documents
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_documents(folder / "documents.parquet", n_documents)
        documents = pl.scan_parquet(folder / "documents.parquet")
        clusters = documents.select("cluster").collect()["cluster"].to_numpy()
        generator = np.random.default_rng(SEED)
        centers = generator.normal(size=(len(NAMES), COMPONENTS)).astype(np.float32)
        np.save(folder / "features.npy", centers[clusters])
        features = np.load(folder / "features.npy", mmap_mode="r+")
        for start in range(0, n_documents, 100_000):
            block = features[start : start + 100_000]
            block += 0.4 * generator.normal(size=block.shape).astype(np.float32)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started, cpu = time.perf_counter(), time.process_time()
        files = write_report(report_of(documents, features), folder / "report")
        result: dict[str, Any] = {
            "documents": n_documents,
            "wall_seconds": round(time.perf_counter() - started, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "peak_memory_mb": {
                "before": before // 1024,
                "after": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            },
            "html_mb": round(files.html.stat().st_size / 1e6, 2),
            "milliseconds_to_open": [round(value) for value in milliseconds_to_open(files.html)],
            "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs",
            "versions": {name: metadata.version(name) for name in ("polars", "numpy", "matplotlib")},
            "seed": SEED,
        }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
