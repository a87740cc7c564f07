"""Memory of a step, by hand."""

import numpy as np

from hydralora.data.batching import plan_steps
from hydralora.training.step.memory import FirstStepMemory, StepMemory, longest_row

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


def test_on_a_cpu_nothing_is_measured() -> None:
    plan = plan_steps(np.array([1]), tokens_per_step=1, micro_batches_per_step=1, max_steps=1, seed=0)
    assert FirstStepMemory(plan, np.array([1]), packed=False).result is None
