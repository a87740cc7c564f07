"""When a base model is lent again, and when it is loaded anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hydralora.base_model import borrowed_base_model, taken_base_model
from hydralora.base_model.embedded import CACHE_VARIABLE
from tests.hydralora.small import small_model, small_tokenizer

LORA = {"target_modules": ["q_proj", "gate_proj"], "modules_to_save": ["norm"], "task_type": "CAUSAL_LM"}


def write_in_place(weight: torch.Tensor) -> None:
    with torch.no_grad():
        weight[0, 1] += 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    small_model().save_pretrained(tmp_path / "base")
    small_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def borrow(folder: Path) -> Any:
    return borrowed_base_model(name_or_path=str(folder), dtype=torch.float32, device="cpu")


def test_a_base_model_is_lent_again_without_the_adapter(folder: Path) -> None:
    tokens = torch.arange(6)[None]
    with borrow(folder) as (first, _):
        logits = first(tokens).logits
        names = [name for name, _ in first.named_modules()]
        torch.nn.init.normal_(get_peft_model(first, LoraConfig(**LORA)).base_model.model.lm_head.weight.clone())
    with borrow(folder) as (second, _):
        assert second is first
        assert [name for name, _ in second.named_modules()] == names
        assert not any(p.requires_grad for p in second.parameters())
        assert not hasattr(second, "peft_config")
        torch.testing.assert_close(second(tokens).logits, logits, rtol=0, atol=0)


def test_a_base_model_that_was_taken_is_not_lent(folder: Path) -> None:
    with borrow(folder) as (first, _):
        pass
    taken, _ = taken_base_model(name_or_path=str(folder), dtype=torch.float32, device="cpu")
    assert taken is first
    with borrow(folder) as (second, _):
        assert second is not first


def train_whole(model: Any) -> None:
    write_in_place(model.lm_head.weight)


def leave_a_hook(model: Any) -> None:
    model.model.embed_tokens.register_forward_hook(lambda *_: None)


def change_the_attention(model: Any) -> None:
    model.set_attn_implementation("sdpa")


def replace_a_layer(model: Any) -> None:
    model.lm_head = torch.nn.Identity()


@pytest.mark.parametrize("harm", [train_whole, leave_a_hook, change_the_attention, replace_a_layer])
def test_a_base_model_that_is_not_as_it_was_is_loaded_anew(folder: Path, harm: Callable[[Any], None]) -> None:
    with borrow(folder) as (first, _):
        harm(first)
    with borrow(folder) as (second, _):
        assert second is not first


def test_a_model_in_use_is_not_lent_twice(folder: Path) -> None:
    with borrow(folder) as (first, _), borrow(folder) as (second, _):
        assert second is not first


def test_after_an_error_it_is_not_lent_again(folder: Path) -> None:
    with pytest.raises(KeyError), borrow(folder) as (first, _):
        raise KeyError
    with borrow(folder) as (second, _):
        assert second is not first
