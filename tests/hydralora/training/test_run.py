"""Runs described in JSON: any row of the table of methods, on tokens that another process left."""

import json
from pathlib import Path
from typing import Any

import pytest

from hydralora.data import DataError, TokenisedDocuments, tokenise
from hydralora.training import Progress
from hydralora.training.run import run_from_json
from tests.hydralora.small import save_run, small_documents, small_tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRALORA_CACHE", str(tmp_path / "cache"))


def describe(folder: Path, changes: dict[str, Any]) -> Path:
    """A description without `peft_config`, and with changes."""
    path = save_run(folder, max_steps=3)
    values = {**json.loads(path.read_text()), "held_out": None, **changes}
    del values["peft_config"]
    path.write_text(json.dumps(values))
    return path


def test_a_method_by_its_name_on_tokens_of_another_process(tmp_path: Path) -> None:
    """HydraLoRA has a router of its own: gates that come with the documents must not reach it."""
    rows = [{**row, "cluster": i % 2, "expert_gates": [1.0, 0.0]} for i, row in enumerate(small_documents())]
    documents = tokenise(rows, small_tokenizer(), max_length=64)
    documents.save(tmp_path / "tokens")
    seen: list[Progress] = []
    changes = {
        "documents": str(tmp_path / "tokens"),
        "method": "hydralora",
        "method_config": {"num_experts": 2, "r": 4, "target_modules": ["q_proj"]},
    }
    result = run_from_json(describe(tmp_path, changes), seen.append)
    assert result.record["peft_config"]["num_experts"] == 2
    assert result.record["data"]["max_length"] == 64
    assert result.record["data"]["documents"] == len(documents)
    assert result.record["parameters"]["router"] == 2 * 2 * 4
    assert seen[-1].step == 3


def test_fields_that_are_missing_unknown_or_contradict(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown fields \['rank'\]"):
        run_from_json(describe(tmp_path, {"rank": "hydralora"}))
    with pytest.raises(ValueError, match="exactly one of the fields method and peft_config"):
        run_from_json(describe(tmp_path, {}))


def test_saved_documents_come_back(tmp_path: Path) -> None:
    documents = tokenise(small_documents(), small_tokenizer(), template="plain", max_length=12)
    documents.save(tmp_path / "tokens")
    loaded = TokenisedDocuments.load(tmp_path / "tokens")
    assert loaded.fingerprint() == documents.fingerprint()
    assert loaded.counts == documents.counts
    assert loaded.prompts_cut > 0
    assert loaded.take([3, 1]).column("input_ids") == [documents.column("input_ids")[i] for i in (3, 1)]
    with pytest.raises(DataError, match="Expected a folder of tokenised documents"):
        TokenisedDocuments.load(tmp_path)
