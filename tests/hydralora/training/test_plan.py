"""The order of documents and the learning rates, without a training."""

from typing import Any

import numpy as np
import pytest
import torch

from hydralora.data import TokenisedDocuments, tokenise
from hydralora.training import TrainingConfig, TrainingError, plan_run
from hydralora.training.trainer import adamw, schedule
from tests.hydralora.small import small_documents, small_tokenizer


@pytest.fixture
def plain() -> TokenisedDocuments:
    return tokenise(small_documents(), small_tokenizer())


def test_rates_of_parameter_groups() -> None:
    model = torch.nn.ModuleDict({"lora_A": torch.nn.Linear(2, 2), "lora_B": torch.nn.Linear(2, 2)})
    config = TrainingConfig(max_steps=1, learning_rate=0.1, learning_rate_ratios={"lora_B": 16.0})
    optimizer = adamw(model, config)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 1.6])
    assert schedule(optimizer, config, 1).get_last_lr() == pytest.approx([0.05, 0.8])


@pytest.mark.parametrize("mixing", [{}, {"mixing_temperature": 2.0}])
def test_runs_with_one_data_seed_read_the_same_documents(plain: TokenisedDocuments, mixing: dict[str, Any]) -> None:
    def order(**seeds: int) -> list[int]:
        plan = plan_run(plain, TrainingConfig(max_steps=5, tokens_per_step=200, **mixing, **seeds))
        return [int(document) for batch in plan.micro_batches for document in batch]

    assert order(seed=0) == order(seed=1, data_seed=0)
    assert order(seed=0) != order(seed=1)


def test_sources_are_read_by_their_weights(plain: TokenisedDocuments) -> None:
    def sums(**mixing: Any) -> float:
        plan = plan_run(plain, TrainingConfig(max_steps=60, tokens_per_step=200, **mixing))
        sources = np.array(plain.column("source"))[np.concatenate(plan.micro_batches)]
        return float((sources == "sums").mean())

    assert sums() == pytest.approx(0.5, abs=0.05)
    assert sums(mixing_weights={"sums": 4.0}) == pytest.approx(0.8, abs=0.05)
    assert sums(mixing_weights={"sums": 4.0}, mixing_cap=0.6) == pytest.approx(0.6, abs=0.05)
    with pytest.raises(TrainingError, match="expected sources among reversals, sums, got sum"):
        sums(mixing_weights={"sum": 4.0})
    for wrong in ({"mixing_temperature": 0.0}, {"mixing_cap": 1.5}, {"mixing_weights": {"sums": -1.0}}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TrainingConfig(max_steps=1, **wrong)  # type: ignore[arg-type]
