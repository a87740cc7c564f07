"""From a Parquet file to a cluster for every document, at 100,000, a million and ten million documents.

    python benchmarks/corpus/million_documents.py

Builds a documents table of a million rows in the temporary folder (real corpora resampled, a tenth of the words of each
document replaced), then runs each size in a process of its own, after a warm-up that loads the compiled kernels: sample
-> TF-IDF, LSA -> K=1..20 -> N -> one streaming pass that labels every document. Ten million documents are the file
read ten times. Writes results/million_documents.json.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from perturbed_text import perturbed

RESULT = Path(__file__).parents[1] / "results" / "million_documents.json"
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", Path(__file__).resolve().parents[3] / "shared" / "corpora"))
NAMES = ("dolly15k", "flan10", "gsm8k", "legalbench", "mbxp", "medquad")
SEED = 0
N_DOCUMENTS = 1_000_000
# Documents, threads: CPU seconds are judged on one thread, wall time on two; in pairs, as other work comes and goes.
RUNS = ((100_000, 1), *((N_DOCUMENTS, 1), (N_DOCUMENTS, 2)) * 3, (10_000_000, 2))


def build_corpus(path: Path) -> None:
    tables = [pl.read_parquet(CORPORA / f"{name}_train.parquet") for name in NAMES]
    prompt = pl.concat_str("instruction", "input", separator="\n", ignore_nulls=True)
    real = pl.concat([table.select(prompt=prompt, completion="output") for table in tables]).rows()
    words = [word for _, completion in real[::50] for word in completion.split()]
    rng = random.Random(SEED)

    rows = []
    for _ in range(N_DOCUMENTS):
        document = real[int(rng.random() * len(real))]
        rows.append((f"{rng.getrandbits(64):016x}", *(perturbed(text, words, rng) for text in document)))
    documents = pl.DataFrame(rows, ["document_id", "prompt", "completion"], orient="row")
    documents.write_parquet(path, row_group_size=20_000)


def measure(path: Path, n_documents: int) -> dict[str, Any]:
    from analysis.clusters.choice.selection import select_num_clusters
    from analysis.clusters.corpus_model import CorpusModel
    from analysis.clusters.kmeans import sweep_kmeans
    from analysis.corpus.document_text import document_text
    from analysis.features.lsa import TfidfLsa
    from analysis.text.sampling import sample_documents

    def label(paths: list[Path]) -> dict[str, Any]:
        seconds, start = {}, time.process_time()
        documents = pl.scan_parquet(paths).select("document_id", text=document_text("both"))
        sample = sample_documents(documents, 10_000)["text"]
        seconds["sample"] = time.process_time() - start
        features = TfidfLsa().fit(sample)
        rows = features.transform(sample)
        seconds["features"] = time.process_time() - start - sum(seconds.values())
        sweep = sweep_kmeans(rows)
        seconds["sweep"] = time.process_time() - start - sum(seconds.values())
        n_clusters = select_num_clusters(rows, sweep, sample).value
        seconds["choice"] = time.process_time() - start - sum(seconds.values())
        model = CorpusModel(features, sweep.centers[sweep.index(n_clusters)])
        batches = (
            pl.from_arrow(batch).select(document_text("both")).to_series()
            for path in paths
            for batch in pq.ParquetFile(path).iter_batches(8192, columns=["prompt", "completion"])
        )
        sizes = np.zeros(n_clusters, np.int64)
        with pq.ParquetWriter(Path(folder) / "labels.parquet", pa.schema({"cluster": pa.int32()})) as writer:
            for block in model.stream(batches):
                sizes += np.bincount(block.labels, minlength=n_clusters)
                writer.write_table(pa.table({"cluster": block.labels}))
        seconds["label"] = time.process_time() - start - sum(seconds.values())
        cluster_sizes = sizes.tolist()
        return {"labelled": sum(cluster_sizes), "cluster_sizes": cluster_sizes, "cpu_seconds": seconds}

    with tempfile.TemporaryDirectory() as folder:
        warm_up = Path(folder) / "few.parquet"
        documents = pl.scan_parquet(path).head(n_documents)
        documents.head(2000).sink_parquet(warm_up)
        label([warm_up])
        paths = [path] * (n_documents // N_DOCUMENTS)
        if n_documents < N_DOCUMENTS:
            paths = [Path(folder) / "part.parquet"]
            documents.sink_parquet(paths[0], row_group_size=20_000)
        resident, wall = _resident_mb(), time.perf_counter()
        result = label(paths)
        result["wall_seconds"] = time.perf_counter() - wall
        result["peak_growth_mb"] = _peak_mb() - resident
    total = sum(result["cpu_seconds"].values())
    return result | {"total_cpu_seconds": total, "cpu_microseconds_a_document": total / n_documents * 1e6}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024**2


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    path = Path(tempfile.gettempdir()) / f"hydralora-million-{SEED}.parquet"
    if not path.exists():
        build_corpus(path)
    n_bytes = pl.scan_parquet(path).select((pl.col("prompt", "completion").str.len_bytes()).sum())
    result: dict[str, Any] = {
        "megabytes": sum(n_bytes.collect(engine="streaming").row(0)) / 1e6,
        "seed": SEED,
        "versions": {n: metadata.version(n) for n in ("numba", "numpy", "polars", "pyarrow", "scikit-learn", "scipy")},
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count()},
        "runs": [],
    }
    for n_documents, threads in RUNS:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "POLARS_MAX_THREADS": str(threads)}
        environment["OPENBLAS_NUM_THREADS"] = "1"  # its threads wait busily, which counts as work
        command = [sys.executable, __file__, str(path), str(n_documents)]
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        run = {"documents": n_documents, "threads": threads, "load": os.getloadavg()[0], **json.loads(output)}
        print(json.dumps(run, indent=1), flush=True)
        result["runs"].append(run)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
    else:
        main()
