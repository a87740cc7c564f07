"""The job `sharded`: its artifact, and refusals in one sentence."""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from pipelines.definitions import build_defs
from pipelines.store.artifacts import Artifact
from tests.analysis.shards.small_shards import write_corpus
from tests.pipelines.small_corpus import corpus_ops


def run(folder: Path, engine: dict[str, Any], store: str = "store", **config: Any) -> dg.ExecuteInProcessResult:
    sources = [
        {"name": name, "read": {"paths": [str(folder / "in" / name / "*")]}}
        for name in ("kitchen", "harbour", "garden")
    ]
    given = {
        "sources": sources,
        "out": str(folder / "shards"),
        "clean": {"detect_language": False},
        "n_components": 8,
        "max_clusters": 5,
        "n_init": 1,
        "shard_bytes": 20_000,
    }
    resources = {"store": {"config": {"directory": str(folder / store)}}, "engine": {"config": engine}}
    return (
        build_defs()
        .resolve_job_def("sharded")
        .execute_in_process(
            {"ops": {"sharded_corpus": {"config": given | config}}, "resources": resources}, raise_on_error=True
        )
    )


def test_job_writes_an_artifact(tmp_path: Path) -> None:
    write_corpus(tmp_path / "in")
    artifact: Artifact = run(tmp_path, {}).output_for_node("sharded_corpus")
    found = artifact.json("corpus")
    assert found["choice"]["num_clusters"] == 3
    assert pl.read_parquet(found["labels"]).height == found["data_card"]["n_kept"]
    assert artifact.read("map")["name"].n_unique() == 3
    assert artifact.path("corpus_model/corpus_model.json").exists()
    # The engine does not change the result, so the artifact is the same one.
    again: Artifact = run(tmp_path, {"engine": "local", "workers": 2}).output_for_node("sharded_corpus")
    assert again.reused
    assert again.fingerprint == artifact.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("engine", [{"workers": 2}, {"engine": "ray", "address": "local"}], ids=["processes", "ray"])
def test_a_driver_under_pipes(tmp_path: Path, capfd: pytest.CaptureFixture[str], engine: dict[str, Any]) -> None:
    if "engine" in engine:
        pytest.importorskip("ray")
    write_corpus(tmp_path / "in")
    piped: Artifact = run(tmp_path, engine | {"driver": "process"}).output_for_node("sharded_corpus")
    assert re.search(r"documents: [1-9]\d* of", capfd.readouterr().err)
    # The driver in the run's own process finds all tasks done.
    own: Artifact = run(tmp_path, {}, store="other").output_for_node("sharded_corpus")
    assert "documents: 0 of" in capfd.readouterr().err
    assert not own.reused
    assert own.json("corpus") == piped.json("corpus")
    (tmp_path / "in" / "garden" / "1.parquet").write_bytes(b"not a file, but longer than its mark")
    with pytest.raises(dg.Failure, match=r"garden/1\.parquet"):
        run(tmp_path, engine | {"driver": "process"})


@pytest.mark.parametrize(
    ("engine", "config", "message"),
    [
        ({"workers": 0}, {}, "workers: expected at least 1 and at most 1,024, got 0"),
        ({}, {"clean": {"max_documents_per_source": 3}}, "max_documents_per_source: expected none"),
    ],
)
def test_refusals(tmp_path: Path, engine: dict[str, Any], config: dict[str, Any], message: str) -> None:
    write_corpus(tmp_path / "in")
    with pytest.raises(Exception, match=message):
        run(tmp_path, engine, **config)


def test_a_corpus_without_a_single_duplicate(tmp_path: Path) -> None:
    corpus_ops(tmp_path)
    sources = [{"name": n, "read": {"paths": [str(tmp_path / f"{n}.jsonl")]}} for n in ("sums", "reversals", "gardens")]
    clean = {"detect_language": False, "near_duplicate_threshold": None}
    card = run(tmp_path, {}, sources=sources, clean=clean).output_for_node("sharded_corpus").json("corpus")["data_card"]
    assert card["n_kept"] == card["n_read"] == 192
