"""From files to a served answer by the command line alone, with two experts."""

import json
from pathlib import Path

import pytest

from tests.analysis.answer.small_corpus import GARDEN, LEDGER, write_records
from tests.hydralora.small import small_model, small_tokenizer


@pytest.fixture
def arguments(tmp_path, monkeypatch) -> list[str]:
    """What the commands share: two files, an expert for each, and a tiny base model."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    small_model().save_pretrained(tmp_path / "base")
    small_tokenizer().save_pretrained(tmp_path / "base")
    files = [write_records(tmp_path / "garden.jsonl", GARDEN), write_records(tmp_path / "ledger.jsonl", LEDGER, seed=1)]
    return [*map(str, files), "--experts", "sources", "--base-model", "base", "--tokens", "2000", "--out", "store"]


def test_what_train_makes_is_exported_and_served(hydralora, arguments, tmp_path):
    from pipelines.serving.setup.exports import Exports

    code, told, error = hydralora("train", *arguments)
    assert code == 0, error
    assert "N = 2." in told
    (export,) = [line.removeprefix("Next: hydralora ") for line in told.splitlines() if line.startswith("Next: ")]
    code, told, error = hydralora(*export.split(), "--out", "exports", "--json")
    assert code == 0, error
    assert json.loads(told) == {
        "folder": str(tmp_path / "exports"),
        "loras": ["garden", "ledger", "others"],
        "serving": True,
    }
    assert Exports.read(Path("exports")).expert_of("where do I plant the rose in the garden bed")[0] == "garden"
    code, told, _ = hydralora("serve", "exports", "--print-config", "vllm")
    assert code == 0
    assert "garden=exports/garden ledger=exports/ledger others=exports/others" in told
    assert "--chat-template exports/chat_template.jinja" in told
    assert hydralora(*export.split(), "--out", "exports")[0] == 2  # nothing is overwritten


def test_methods_are_compared(hydralora, arguments):
    code, told, error = hydralora("compare", *arguments, "--method", "hydralora_split", "--json")
    assert code == 0, error
    assert {row["method"] for row in json.loads(told)} >= {"hydralora_split", "lora_matched"}
