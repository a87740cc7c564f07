"""New files in a folder start the job `assign`: the clusters of their documents, and whether N still holds.

Off until it is switched on (web UI, Automation; or `dagster sensor start new_files`). The environment says where to
look: `HYDRALORA_NEW_FILES`, the folder with the files; `HYDRALORA_STORE`, the store with the corpus.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from pipelines.store.runs import read_run, run_folders

FOLDER, STORE = "HYDRALORA_NEW_FILES", "HYDRALORA_STORE"
SECONDS_AT_REST = 10.0
"""A file that changed later than this ago may still be written."""


@dg.sensor(name="new_files", job_name="assign", minimum_interval_seconds=60)
def new_files_sensor(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Starts the job `assign` once for each new or changed file in HYDRALORA_NEW_FILES."""
    folder, store = os.environ.get(FOLDER), os.environ.get(STORE)
    if not folder or not store:
        yield dg.SkipReason(f"Expected the folder of new files in {FOLDER} and the store of the corpus in {STORE}.")
        return
    corpus = newest_corpus(Path(store))
    if corpus is None:
        yield dg.SkipReason(f"Expected a run of the job corpus or hydralora in {store}, got none. Run one first.")
        return
    files = files_at_rest(Path(folder))
    if not files:
        yield dg.SkipReason(f"No file in {folder}.")
    for file in files:
        yield request(file, store, corpus)


def newest_corpus(store: Path) -> str | None:
    """Id of the newest run of a store that has the clusters of a corpus."""
    return next((folder.name for folder in run_folders(store) if "cluster_labels" in read_run(folder)), None)


def files_at_rest(folder: Path) -> list[Path]:
    """Files of known kinds that nobody writes any more, by name."""
    from analysis.sources.files import SUFFIXES, format_of

    before = time.time() - SECONDS_AT_REST
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(
        path for path in found if path.is_file() and format_of(path) in SUFFIXES and path.stat().st_mtime <= before
    )


def request(file: Path, store: str, corpus: str) -> dg.RunRequest:
    """A run of `assign` on one file. Dagster starts it once for each key, so once for each state of the file."""
    state = file.stat()
    source = {"name": file.stem, "read": {"files": {"paths": [str(file.resolve())]}}}
    return dg.RunRequest(
        run_key=f"{file.name}:{state.st_mtime_ns}:{state.st_size}",
        run_config={
            "resources": {"store": {"config": {"directory": store, "from_run": corpus}}},
            "ops": {"new_document_labels": {"config": {"sources": [source]}}},
        },
        tags={"hydralora/file": file.name[:63]},
    )
