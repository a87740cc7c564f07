"""The sensor that starts `assign` for new files."""

import os
import time
from pathlib import Path

import dagster as dg
import pytest

from pipelines.checks import problems_of
from pipelines.definitions import defs
from pipelines.sensors import new_files
from pipelines.store.artifacts import build_artifact
from pipelines.store.runs import record_run

RUN = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `inbox` and `store`, as the environment names them."""
    (tmp_path / "inbox").mkdir()
    monkeypatch.setenv(new_files.FOLDER, str(tmp_path / "inbox"))
    monkeypatch.setenv(new_files.STORE, str(tmp_path / "store"))
    return tmp_path


def corpus_in(store: Path) -> None:
    artifact = build_artifact(
        store, "cluster_labels", build=lambda draft: draft.write_json("a", 1), code_version="1", config={}, inputs={}
    )
    record_run(store, RUN, artifact)


def new_file(place: Path, name: str, *, age: float = 60.0) -> Path:
    path = place / "inbox" / name
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def evaluate() -> list[dg.RunRequest | dg.SkipReason]:
    return list(new_files.new_files_sensor(dg.build_sensor_context()))  # type: ignore[arg-type]


def test_it_is_off_until_it_is_switched_on() -> None:
    sensor = defs.resolve_sensor_def("new_files")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED


def test_a_file_is_a_run_on_the_newest_corpus(place: Path) -> None:
    corpus_in(place / "store")
    path = new_file(place, "tickets.jsonl")
    (found,) = evaluate()
    assert isinstance(found, dg.RunRequest)
    assert found.run_config["resources"]["store"]["config"]["from_run"] == RUN
    source = found.run_config["ops"]["new_document_labels"]["config"]["sources"][0]
    assert source == {"name": "tickets", "read": {"files": {"paths": [str(path)]}}}
    assert dg.validate_run_config(defs.resolve_job_def("assign"), found.run_config)
    assert problems_of(defs.resolve_job_def("assign"), found.run_config) == []


def test_a_changed_file_has_another_key_and_an_unchanged_one_the_same(place: Path) -> None:
    corpus_in(place / "store")
    new_file(place, "a.csv")
    first, again = evaluate()[0], evaluate()[0]
    new_file(place, "a.csv", age=30)
    assert first.run_key == again.run_key  # type: ignore[union-attr]
    assert evaluate()[0].run_key != first.run_key  # type: ignore[union-attr]


def test_what_is_still_written_or_of_another_kind_waits(place: Path) -> None:
    corpus_in(place / "store")
    new_file(place, "now.jsonl", age=0)
    new_file(place, "notes.docx")
    (found,) = evaluate()
    assert isinstance(found, dg.SkipReason)


def test_without_folder_or_corpus_it_says_what_is_missing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_file(place, "a.jsonl")
    (no_corpus,) = evaluate()
    assert "Expected a run of the job corpus or hydralora" in str(no_corpus.skip_message)  # type: ignore[union-attr]
    monkeypatch.delenv(new_files.FOLDER)
    (nowhere,) = evaluate()
    assert "HYDRALORA_NEW_FILES" in str(nowhere.skip_message)  # type: ignore[union-attr]
