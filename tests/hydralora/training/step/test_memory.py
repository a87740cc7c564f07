"""Memory of a step, by hand."""

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hydralora.data.batching import plan_steps
from hydralora.training.step.memory import FirstStepMemory, StepMemory, longest_row
from tests.hydralora.small import small_model

GIB = 2**30


def test_what_a_step_adds_is_shared_out_to_its_tokens() -> None:
    memory = StepMemory.of(before=14 * GIB, peak=30 * GIB, total=80 * GIB, row=4096)
    assert memory.peak_gib == 30
    assert memory.kib_per_token == 4096  # 16 GiB for 4,096 tokens
    assert memory.longest_row == int((80 * 0.95 - 14) * 256)


def test_a_row_is_as_long_as_its_padding_makes_it() -> None:
    lengths = np.array([10, 20, 30, 40])
    plan = plan_steps(lengths, tokens_per_step=100, micro_batches_per_step=1, max_steps=1, seed=0)
    assert longest_row(plan, 0, lengths, packed=True) == 100
    assert longest_row(plan, 0, lengths, packed=False) == 160


def test_the_estimate_is_told_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: GIB)
    plan = plan_steps(np.array([40, 50]), tokens_per_step=80, micro_batches_per_step=1, max_steps=2, seed=0)
    told = FirstStepMemory(plan, np.array([40, 50]), packed=True, fused=True, checkpointing=False)
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"), fsdp=[])
    state: Any = SimpleNamespace(global_step=0)
    with caplog.at_level(logging.INFO):
        told.on_step_begin(on_gpu, state, state, model=small_model())
    assert "has 90 tokens and takes about 1.0 GiB of this GPU's 76.0 GiB" in caplog.text


def test_on_a_cpu_nothing_is_measured() -> None:
    plan = plan_steps(np.array([1]), tokens_per_step=1, micro_batches_per_step=1, max_steps=1, seed=0)
    assert FirstStepMemory(plan, np.array([1]), packed=False).result is None
