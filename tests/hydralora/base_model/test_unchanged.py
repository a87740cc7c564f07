"""What the witness of base weights notices, what it leaves to a full look, and what a remembered fingerprint trusts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hydralora.base_model import (
    Witness,
    borrowed_base_model,
    load_base_model,
    remembered_fingerprint,
    sources,
    taken_base_model,
    weights_fingerprint,
)
from hydralora.base_model.embedded import CACHE_VARIABLE
from tests.hydralora.small import small_model, small_tokenizer

LORA = {"target_modules": ["q_proj", "gate_proj"], "modules_to_save": ["norm"], "task_type": "CAUSAL_LM"}


def write_in_place(weight: torch.Tensor) -> None:
    with torch.no_grad():
        weight[0, 1] += 1  # no value of the sample


def write_past_the_count(weight: torch.Tensor) -> None:
    weight.data[0, 0] += 1  # the first value is in every sample


@pytest.mark.parametrize(("write", "expected"), [(write_in_place, None), (write_past_the_count, True)])
def test_writes_are_noticed(write: Callable[[torch.Tensor], None], expected: bool | None) -> None:
    model = small_model()
    witness = Witness.of(model)
    adapted = get_peft_model(model, LoraConfig(**LORA))
    assert witness.saw_a_change(adapted) is False
    write(model.model.layers[1].mlp.gate_proj.base_layer.weight)
    assert witness.saw_a_change(adapted) is expected


def test_training_an_adapter_is_no_change_and_training_the_base_is_doubted() -> None:
    model = small_model()
    witness = Witness.of(model)
    adapted = get_peft_model(model, LoraConfig(**LORA))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    adapted(torch.arange(6)[None], labels=torch.arange(6)[None]).loss.backward()
    optimizer.step()
    assert witness.saw_a_change(adapted, optimizer) is False
    frozen = model.model.layers[0].mlp.down_proj.weight
    assert witness.saw_a_change(adapted, torch.optim.SGD([frozen], lr=0.1)) is None
    frozen.requires_grad_()
    assert witness.saw_a_change(adapted) is None


def test_a_nan_that_was_there_is_no_change() -> None:
    model = small_model()
    model.model.norm.weight.data[0] = torch.nan
    assert Witness.of(model).saw_a_change(model) is False


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    small_model().save_pretrained(tmp_path / "base")
    small_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def load(folder: Path) -> Any:
    return load_base_model(str(folder), dtype=torch.float32, device="cpu")[0]


def test_the_fingerprint_is_computed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = weights_fingerprint(load(folder))
    computed: list[Any] = []
    monkeypatch.setattr(sources, "weights_fingerprint", lambda model: computed.append(model) or expected)  # type: ignore[func-returns-value]
    assert [remembered_fingerprint(load(folder)) for _ in range(3)] == [expected] * 3
    assert len(computed) == 1


def test_other_weights_in_the_same_folder_have_another_fingerprint(folder: Path) -> None:
    before = remembered_fingerprint(load(folder))
    changed = small_model()
    write_in_place(changed.model.embed_tokens.weight)
    changed.save_pretrained(folder)
    assert remembered_fingerprint(load(folder)) == weights_fingerprint(changed) != before


def test_a_model_that_was_changed_since_is_read_again(folder: Path) -> None:
    model = load(folder)
    before = remembered_fingerprint(model)
    write_in_place(model.model.embed_tokens.weight)
    assert remembered_fingerprint(model) == weights_fingerprint(model) != before


def test_a_broken_cache_costs_time_alone(folder: Path) -> None:
    expected = remembered_fingerprint(load(folder))
    cache = folder.parent / "cache" / "fingerprints.json"
    cache.write_text("{")
    assert remembered_fingerprint(load(folder)) == expected
    cache.unlink()
    cache.mkdir()
    assert remembered_fingerprint(load(folder)) == expected


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
