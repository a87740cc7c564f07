"""An adapter of the embedded base model loads by the name in its configuration."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from torch import Tensor

from hydralora.base_model import auto_peft


@pytest.fixture
def folder(tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model in the place of the embedded one."""
    tiny_llama().save_pretrained(tmp_path / "base")
    monkeypatch.setattr(auto_peft, "provision_embedded_base_model", lambda: tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "adapter"


def embedded(tiny_llama: Any) -> Any:
    base = tiny_llama()
    base.name_or_path = "embedded"
    return base


def test_the_base_model_is_found(hydra_llama: Any, tokens: Tensor, folder: Path) -> None:
    model = hydra_llama()
    model.peft_config["default"].base_model_name_or_path = "embedded"
    model.save_pretrained(folder, save_embedding_layers=False)  # else PEFT asks the hub for the base
    loaded = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits)
    loaded.save_pretrained(folder / "again", save_embedding_layers=False)
    assert '"base_model_name_or_path": "embedded"' in (folder / "again" / "adapter_config.json").read_text()


def test_a_lora_too(tiny_llama: Any, tokens: Tensor, folder: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(embedded(tiny_llama), config).eval()
    model.save_pretrained(folder, save_embedding_layers=False)
    loaded = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits)


def test_other_names_are_as_before(hydra_llama: Any, folder: Path) -> None:
    model = hydra_llama()
    model.peft_config["default"].base_model_name_or_path = str(folder.parent / "base")
    model.save_pretrained(folder, save_embedding_layers=False)
    assert AutoPeftModelForCausalLM.from_pretrained(folder).base_model.model.name_or_path == str(folder.parent / "base")
