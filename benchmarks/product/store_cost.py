"""What hashes and fsync cost a large artifact.

    python benchmarks/product/store_cost.py

Builds an artifact with a table of a million documents (about half a gigabyte of Parquet) and times its parts: writing
the table, hashing it, waiting for the disk, and the check when another process uses it. Writes results/store_cost.json.
"""

import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipelines.store.files.manifest import damage, sync_tree, write_manifest

RESULT = Path(__file__).parents[1] / "results" / "store_cost.json"
DOCUMENTS, WORDS, REPETITIONS = 1_000_000, 90, 3
CLEAN = Path(__file__).parents[1] / "results" / "corpus_stage.json"


def documents() -> pl.DataFrame:
    random = np.random.default_rng(0)
    words = np.array([f"w{i:x}" for i in range(50_000)])
    texts = [" ".join(words[random.integers(0, len(words), WORDS)]) for _ in range(DOCUMENTS // 10)]
    table = pl.DataFrame({"text": texts * 10})
    # Each copy begins with another word, so that Parquet's dictionaries cannot share texts.
    return table.with_row_index("document_id").select(
        "document_id", text=pl.format("{} {}", "document_id", "text"), source=pl.lit("made")
    )


def timed(act: Any) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    value = act()
    return value, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def once(table: pl.DataFrame, folder: Path) -> dict[str, Any]:
    path = folder / "documents.parquet"
    _, write = timed(lambda: table.write_parquet(path))
    manifest, hashed = timed(lambda: write_manifest(folder, without="artifact.json"))
    _, synced = timed(lambda: sync_tree(folder))
    _, sizes = timed(lambda: damage(folder, manifest, hashes=False))
    wrong, checked = timed(lambda: damage(folder, manifest, hashes=True))
    assert wrong is None
    megabytes = path.stat().st_size / 1e6
    path.unlink()
    return {
        "megabytes": megabytes,
        "write": write,
        "hash": hashed,
        "fsync": synced,
        "sizes": sizes,
        "check": checked,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    table = documents()
    with tempfile.TemporaryDirectory() as folder:
        runs = [once(table, Path(folder)) for _ in range(REPETITIONS)]
    best = min(runs, key=lambda run: run["hash"]["wall"] + run["fsync"]["wall"])
    cleaning = json.loads(CLEAN.read_text())["best"]["all steps"]
    stage = cleaning["seconds"]["clean"] / cleaning["documents"] * DOCUMENTS
    cost = {kind: best["hash"][kind] + best["fsync"][kind] for kind in ("cpu", "wall")}
    figures = {
        "documents": DOCUMENTS,
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count()},
        "cleaning_seconds_for_as_many": stage,
        "share_of_cleaning": {kind: seconds / stage for kind, seconds in cost.items()},
        "runs": runs,
    }
    RESULT.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
