"""Records of runs: their order, and what happens to damaged ones."""

import os
import time
from pathlib import Path

import pytest

from pipelines.store.artifacts import Artifact, ArtifactError, lineage
from pipelines.store.runs import last_made, made_by, read_run, record_run
from tests.pipelines.store.test_cleaning import made


def test_the_order_of_runs_survives_a_clock_that_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_run(tmp_path, "first", made(tmp_path, "clusters", 1))
    monkeypatch.setattr(time, "time", lambda: 1e9)
    record_run(tmp_path, "second", made(tmp_path, "clusters", 2))
    assert last_made(tmp_path, "clusters").json("value") == 2


def test_records_of_earlier_versions_have_the_time_of_their_file(tmp_path: Path) -> None:
    for number, run in enumerate(("newer", "older")):
        record_run(tmp_path, run, made(tmp_path, "clusters", number))
        path = tmp_path / "runs" / run / "clusters.json"
        path.write_text(path.read_text().partition(', "made"')[0] + "}")
        os.utime(path, (1e9 - number,) * 2)
    assert last_made(tmp_path, "clusters").json("value") == 0


@pytest.mark.parametrize("content", ["", "[]", "{", '{"asset": "clusters"}'])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    """The newest run may be the wanted one, so an older run does not take its place."""
    record_run(tmp_path, "run", made(tmp_path, "clusters", 1))
    (tmp_path / "runs" / "run" / "clusters.json").write_text(content)
    for read in (lambda: last_made(tmp_path, "clusters"), lambda: made_by(tmp_path, "run")):
        with pytest.raises(ArtifactError, match=r"clusters.json: expected the record of an artifact .* Delete .*run,"):
            read()
    record_run(tmp_path, "later", made(tmp_path, "clusters", 2))  # other runs go on


@pytest.mark.parametrize("partition", ["a/b", "x" * 300, "..", "method:seed-0:0.001"])
def test_a_partition_of_any_name_is_recorded(tmp_path: Path, partition: str) -> None:
    artifact = made(tmp_path, "clusters", 1)
    record_run(tmp_path, "run", artifact, partition)
    assert read_run(tmp_path / "runs" / "run") == {"clusters": artifact.fingerprint}


def test_a_record_without_inputs_is_named(tmp_path: Path) -> None:
    documents = made(tmp_path, "documents", 1)
    clusters: Artifact = made(tmp_path, "clusters", 2, documents=documents)
    (documents.folder / "artifact.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"artifact.json: expected a record with inputs, got a damaged file"):
        lineage(clusters)
