"""What identifies sources, and variables in their paths."""

from pathlib import Path

import dagster as dg
import pytest

from pipelines.corpus.sources import CatalogConfig, FilesConfig, HubConfig, content_of, expanded
from tests.pipelines.defs.test_corpus_job import write


def test_files_of_one_name_and_of_local_data_sets_are_in_the_fingerprint(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "train.jsonl", [{"prompt": "p", "completion": folder}])
    configs = (
        FilesConfig(paths=[str(tmp_path / "*" / "train.jsonl")]),
        FilesConfig(paths=[str(tmp_path / "x" / "train.jsonl"), str(tmp_path / "y" / "train.jsonl")]),
        HubConfig(dataset=str(tmp_path)),
    )
    before = [content_of(config) for config in configs]
    assert before[0] == before[1]
    assert len(before[0]) == 2
    write(tmp_path / "x" / "train.jsonl", [{"prompt": "p", "completion": "new"}])
    assert all(old != content_of(config) for old, config in zip(before, configs, strict=True))


def test_a_link_to_nothing_has_a_fingerprint_so_that_its_source_can_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "lost.jsonl").symlink_to(tmp_path / "gone.jsonl")
    config = FilesConfig(paths=[str(tmp_path / "*.jsonl")])
    before = content_of(config)
    (tmp_path / "gone.jsonl").touch()
    assert len(before) == 1
    assert content_of(config) != before


def test_a_catalog_entry_is_in_the_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "catalog.yaml"
    found = []
    for column in ("a", "b"):
        file.write_text(
            f"toy: {{dataset: {tmp_path}, licence: MIT, purpose: train, columns: {{prompt: {column}, completion: c}}}}"
        )
        found.append(content_of(CatalogConfig(entry="toy", file=str(file))))
    assert found[0] != found[1]


def test_dollar_signs_and_variables_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDER", "a$HOME")
    assert expanded("$FOLDER/${FOLDER}/cost$$.jsonl") == "a$HOME/a$HOME/cost$.jsonl"
    with pytest.raises(dg.Failure) as raised:
        expanded("x/$NOT_THERE.jsonl")
    assert "the environment variable NOT_THERE, which is not set" in str(raised.value.description)
    assert "write $$ for a dollar sign" in str(raised.value.description)
    assert raised.value.allow_retries is False
