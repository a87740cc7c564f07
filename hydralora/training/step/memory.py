"""Estimates the GPU memory of a run before its first step, and measures that of the first step."""

import dataclasses
import logging
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hydralora.data.batching import StepPlan
from hydralora.training.step.memory_estimate import Estimate, estimate

_USABLE = 0.95  # share of the memory; the rest goes to the driver and to fragmentation
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Memory of the first step in this process.

    Attributes:
        before_gib: Memory in use before the step: base weights and trained parameters, in GiB.
        peak_gib: Peak memory within the step, in GiB.
        kib_per_token: Memory that the step added per token of its longest row (a micro-batch with padding), in KiB.
        longest_row: Estimated tokens of the longest row that would fit.
        estimate: The estimate before the step; None for models whose shapes are not read.
    """

    before_gib: float
    peak_gib: float
    kib_per_token: float
    longest_row: int
    estimate: Estimate | None = None

    @classmethod
    def of(cls, before: int, peak: int, total: int, row: int, estimated: Estimate | None = None) -> "StepMemory":
        """Compute from bytes before the step, peak bytes, total bytes of the GPU, and tokens of the longest row."""
        per_token = max(1, peak - before) / row
        fits = int((total * _USABLE - before) / per_token)
        gib = round(before / 2**30, 2), round(peak / 2**30, 2)
        return cls(*gib, round(per_token / 2**10, 1), fits, estimated)


class FirstStepMemory(TrainerCallback):
    """Measures the first step on a GPU; `result` is None elsewhere.

    Args:
        lengths: Tokens of each document, [documents].
        packed: Whether rows have no padding.
        options: Options of `estimate`.
    """

    def __init__(self, plan: StepPlan, lengths: Any, *, packed: bool, **options: bool) -> None:
        self._plan, self._lengths, self._packed, self._options = plan, lengths, packed, options
        self._before: int | None = None
        self._estimate: Estimate | None = None
        self.result: StepMemory | None = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Called by the trainer before each optimizer step."""
        if self._before is None and args.device.type == "cuda":
            self._before = torch.cuda.memory_allocated()
            if not args.fsdp:  # its processes hold only parts of the model
                self._tell_estimate(model, args.device, self._before)

    def _tell_estimate(self, model: Any, device: torch.device, before: int) -> None:
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        steps = range(self._plan.num_steps)
        row = max(longest_row(self._plan, step, self._lengths, packed=self._packed) for step in steps)
        usable = int(torch.cuda.get_device_properties(device).total_memory * _USABLE)
        config = model.config.get_text_config()
        self._estimate = estimate(config, row, trainable, before, usable, **self._options)
        if self._estimate is not None:
            _log.log(logging.INFO if self._estimate.fits else logging.WARNING, self._estimate)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the trainer after each optimizer step."""
        if self._before is None or self.result is not None:
            return
        total = torch.cuda.get_device_properties(args.device).total_memory
        row = longest_row(self._plan, state.global_step - 1, self._lengths, packed=self._packed)
        self.result = StepMemory.of(self._before, torch.cuda.max_memory_allocated(), total, row, self._estimate)
        _log.info(
            "A step of rows of up to %d tokens takes %.1f GiB; rows of up to about %d tokens would fit this GPU.",
            row,
            self.result.peak_gib,
            self.result.longest_row,
        )


def longest_row(plan: StepPlan, step: int, lengths: Any, *, packed: bool) -> int:
    """Tokens of the longest micro-batch of a step, with padding."""
    batches = plan.micro_batches[step * plan.per_step : (step + 1) * plan.per_step]
    sizes = [lengths[batch].sum() if packed else len(batch) * lengths[batch].max() for batch in batches]
    return int(np.max(sizes))
