"""The studies' training loop: packed rows give what padded ones give."""

import copy
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from hydralora.training import TrainingConfig
from hydralora.training.step.packing import Packing

STUDIES = Path(__file__).parents[3] / "benchmarks" / "studies"


@pytest.mark.parametrize("weighted", [False, True])
def test_packed_rows_give_the_losses_of_padded_ones(monkeypatch: pytest.MonkeyPatch, weighted: bool) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    # Modules of studies import each other by name, as a script's folder allows.
    study_runs: Any = importlib.import_module("study_runs")
    study_data: Any = importlib.import_module("study_data")
    random = np.random.default_rng(0)
    lengths = random.integers(5, 12, 24)
    data = study_data.StudyData(
        tokens=random.integers(3, 64, lengths.sum()).astype(np.uint16),
        lengths=lengths,
        answer_starts=lengths // 2,
        sources=np.zeros(24, int),
        parts=np.full(24, "train"),
        gates={},
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes))
    config = TrainingConfig(max_steps=3, tokens_per_step=40, gradient_accumulation_steps=2, learning_rate=1e-2)
    weights = random.uniform(0.5, 2, 24).astype(np.float32) if weighted else None
    monkeypatch.setattr(torch, "autocast", lambda *_: torch.enable_grad())  # exact, so that rows compare

    def losses(packed: bool) -> tuple[list[float], Any]:
        monkeypatch.setattr(study_runs, "_packing", lambda _: Packing(packed, "sdpa" if packed else None))
        torch.manual_seed(1)
        model: Any = get_peft_model(copy.deepcopy(base), LoraConfig(target_modules="all-linear", r=2))
        trained = study_runs.fit(model, data, np.arange(16), config, "cpu", weights=weights)
        return trained["losses"], study_runs.document_sums(model, data, np.arange(16, 24), None, "cpu")

    (padded, sums), (packed, packed_sums) = losses(packed=False), losses(packed=True)
    assert packed == pytest.approx(padded, abs=2e-4)
    assert packed_sums == pytest.approx(sums, rel=1e-3)
