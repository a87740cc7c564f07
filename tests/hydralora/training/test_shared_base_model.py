"""Trainings one after the other on one base model: as if each had loaded its own."""

from pathlib import Path

import pytest
import torch

from hydralora.base_model import borrowed_base_model
from hydralora.base_model.embedded import CACHE_VARIABLE
from hydralora.data import tokenise
from hydralora.methods import MethodConfig
from hydralora.training import TrainingConfig
from hydralora.training.run import train_method
from tests.hydralora.small import small_documents, small_model, small_tokenizer


@pytest.mark.parametrize("method", ["hydralora", "lora_r8", "ia3", "adalora", "prefix_tuning"])
def test_a_second_training_ends_where_a_first_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    small_model().save_pretrained(tmp_path / "base")
    small_tokenizer().save_pretrained(tmp_path / "base")
    documents = tokenise(small_documents(), small_tokenizer(), max_length=64)
    config = TrainingConfig(max_steps=10, tokens_per_step=100, gradient_accumulation_steps=1, autocast=False)
    models, weights, records = [], [], []
    for name in ("first", "second"):
        with borrowed_base_model(name_or_path=str(tmp_path / "base"), dtype=torch.float32, device="cpu") as lent:
            result = train_method(method, MethodConfig(), *lent, documents, tmp_path / name, config)
            models.append(lent[0])
            weights.append({n: p.detach().clone() for n, p in result.model.named_parameters() if p.requires_grad})
            records.append(result.record)
    assert models[0] is models[1]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert records[0]["base_model"] == records[1]["base_model"]
    assert records[0]["tokens_per_second"] > 0
    assert records[0]["samples_per_second"] > 0
    assert 0 <= records[0]["data_wait_share"] < 1
