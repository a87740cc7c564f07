from pathlib import Path

from pipelines.store.artifacts import Artifact, build_artifact
from pipelines.store.io_manager import ArtifactStore
from pipelines.store.runs import record_run


def made(store: Path, run: str, asset: str, value: int) -> Artifact:
    artifact = build_artifact(
        store, asset, code_version="1", config={"value": value}, inputs={}, build=lambda draft: None
    )
    record_run(store, run, artifact)
    return artifact


def test_the_results_of_a_run_are_its_own_whatever_other_runs_make(tmp_path: Path) -> None:
    corpus, adapter = made(tmp_path, "first", "corpus", 1), made(tmp_path, "second", "adapter", 1)
    store = ArtifactStore(directory=str(tmp_path), from_run="first").after({"adapter": adapter.fingerprint})
    for asset in ("corpus", "adapter"):
        other = made(tmp_path, "third", asset, 2)
        assert ArtifactStore(directory=str(tmp_path)).last(asset).fingerprint == other.fingerprint
    assert [store.last(asset).fingerprint for asset in ("corpus", "adapter")] == [
        corpus.fingerprint,
        adapter.fingerprint,
    ]
