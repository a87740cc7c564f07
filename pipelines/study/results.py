"""`python -m pipelines.study.results CONFIG.yaml FOLDER`: exports the results of the jobs `compare` and `study`.

It writes one JSON file with the name of the configuration (tables, learning rates, settings, versions and hardware),
and the tables and figures for people. Losses of single documents, scores of single benchmark tasks, and adapters stay
in the store.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from pipelines.store.artifacts import Artifact, ArtifactError
from pipelines.store.files.draft import without_nan
from pipelines.store.io_manager import ArtifactStore, store_of
from pipelines.study.paper import WRITERS
from pipelines.study.running.run import ASSET as RUNS

TABLES = {
    "learning_rates": ("sweep",),
    "method_comparison": ("comparison", "by_source", "runs"),
    "method_benchmarks": ("scores",),
    "study_runs": ("runs", "rates", "sizes", "costs"),
    "study_benchmarks": ("scores",),
    **{f"paper_{name}": ("table",) for name in WRITERS},
}
FOR_PEOPLE = {".md", ".png"}


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.study.results", description=__doc__)
    parser.add_argument("config", type=Path, help="the run configuration that was executed")
    parser.add_argument("folder", type=Path, help="where the results go")
    arguments = parser.parse_args()
    try:
        print(write_results(store_of(arguments.config), arguments.config, arguments.folder))
    except (ArtifactError, OSError) as error:
        raise SystemExit(str(error)) from error


def write_results(store: ArtifactStore, config: Path, folder: Path) -> Path:
    """Collect the results of the newest runs in a store, and return the path of the JSON file.

    Raises:
        ArtifactError: neither job has been run in this store.
    """
    found = {name: artifact for name in TABLES if (artifact := _last(store, name)) is not None}
    if not found:
        raise ArtifactError(f"Expected results of the jobs compare or study in {store.directory}, got none.")
    name = config.stem.replace("-", "_")
    results: dict[str, Any] = {"configuration": yaml.safe_load(config.read_text()), "environment": _environment(store)}
    folder.mkdir(parents=True, exist_ok=True)
    for asset, artifact in found.items():
        tables = [table for table in TABLES[asset] if (artifact.folder / f"{table}.parquet").exists()]
        results[asset] = {
            "fingerprint": artifact.fingerprint,
            "inputs": artifact.record["inputs"],
            **{table: _rows(artifact, table) for table in tables},
        }
        if asset == "learning_rates":
            results[asset] |= artifact.json(asset)
        for path in artifact.folder.iterdir():
            if path.suffix in FOR_PEOPLE and path.stem != "thumbnail":
                shutil.copyfile(path, folder / f"{name}_{asset}_{path.name}")
    path = folder / f"{name}.json"
    path.write_text(json.dumps(without_nan(results), indent=1, default=str) + "\n")
    return path


def _rows(artifact: Artifact, table: str) -> list[dict[str, Any]]:
    rows = artifact.read(table)
    return (benchmark_means(rows) if table == "scores" else rows).to_dicts()


def benchmark_means(scores: pl.DataFrame) -> pl.DataFrame:
    """The first score of each model and benchmark, which is the mean over the tasks if there are several."""
    first = pl.col("task").first().over("domain", "method", "num_experts", "benchmark")
    return scores.filter(pl.col("task") == first)


def _last(store: ArtifactStore, asset: str) -> Artifact | None:
    try:
        return store.last(asset)
    except ArtifactError:
        return None


def _environment(store: ArtifactStore) -> dict[str, Any] | None:
    """Versions and hardware of the first run in the store."""
    for path in sorted((Path(store.directory) / RUNS).glob("*/run.json")):
        return json.loads(path.read_text())["environment"]
    return None


if __name__ == "__main__":
    main()
