"""The card beside an adapter that `save_pretrained` of any training writes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hydralora.base_model import EMBEDDED, EMBEDDED_ON_HUB
from hydralora.gates.export import export_lora


def test_save_pretrained_says_how_to_load_and_serve(hydra_llama: Any, tmp_path: Path) -> None:
    hydra_llama(router_input="given", num_experts=4, shared_rank=2).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "[More Information Needed]" not in text
    assert {"hydralora", "peft"} <= set(yaml.safe_load(text.split("---")[1])["tags"])
    for words in ("import hydralora", "load_base_model(", "[batch, 4]", "hydralora export", "rank 2 that is always on"):
        assert words in text


def test_a_card_that_somebody_wrote_stays(hydra_llama: Any, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\ntags:\n- mine\n---\n# Mine\n")
    hydra_llama().save_pretrained(tmp_path)
    assert "# Mine" in (tmp_path / "README.md").read_text()


def test_the_metadata_that_peft_writes_stay(hydra_llama: Any, tmp_path: Path) -> None:
    model = hydra_llama(task_type="CAUSAL_LM")
    model.base_model.model.config._name_or_path = "org/model"
    model.save_pretrained(tmp_path)
    data = yaml.safe_load((tmp_path / "README.md").read_text().split("---")[1])
    assert (data["base_model"], data["library_name"], data["pipeline_tag"]) == ("org/model", "peft", "text-generation")
    assert {"hydralora", "transformers"} <= set(data["tags"])
    model.base_model.model.config._name_or_path = str(tmp_path)  # where an embedded model was unpacked
    model.base_model.model.name_or_path = str(tmp_path)
    (tmp_path / "README.md").unlink()
    model.save_pretrained(tmp_path)
    assert str(tmp_path) not in (tmp_path / "README.md").read_text().split("---")[1]


@pytest.mark.parametrize("portable", [True, False])
def test_an_export_names_its_base_and_says_how_to_load_and_serve(
    hydra_llama: Any, tmp_path: Path, portable: bool
) -> None:
    model = hydra_llama(num_experts=3, router_input="given", task_type="CAUSAL_LM", shared_rank=2)
    name = "org/model" if portable else EMBEDDED_ON_HUB
    model.peft_config["default"].base_model_name_or_path = name if portable else EMBEDDED
    told = {}
    for which, gates in (("one", 2), ("none", torch.zeros(3)), ("all", "uniform")):
        export_lora(model, tmp_path, gates, portable=portable)
        told[which] = (tmp_path / "README.md").read_text()
    assert "Expert 2 of 3 (counted from 0) alone." in told["one"]
    assert "No expert is on" in told["none"]
    assert "Gates of its 3 experts: 0.333, 0.333, 0.333." in told["all"]
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == name
    assert yaml.safe_load(told["one"].split("---")[1])["base_model"] == name
    assert f'AutoTokenizer.from_pretrained("{name}")' in told["one"]
    assert ("vllm serve" in told["one"]) == portable
    (tmp_path / "README.md").write_text("# Mine\n")
    export_lora(model, tmp_path, 0, portable=portable)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
