"""The card beside an adapter that `save_pretrained` of any training writes."""

from pathlib import Path
from typing import Any

import yaml


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
