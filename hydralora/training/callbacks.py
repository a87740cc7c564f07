"""Callbacks of a run: write the curve, report progress, stop at the first loss that is not finite."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState

from hydralora.data.batching import StepPlan
from hydralora.training.config import Progress, TrainingError

Logs = dict[str, float] | None


class CurveWriter(TrainerCallback):
    """Appends a line to `curve.jsonl` for each logged step: `step, tokens, loss, learning_rate, seconds`, `eval_loss`.

    A resumed run first removes the lines after its checkpoint, so that each step occurs once.
    """

    def __init__(self, path: Path, plan: StepPlan) -> None:
        self._path = path
        self._tokens = np.cumsum(plan.tokens_of_step)
        self._started = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Called by the trainer before the first step."""
        if not state.is_world_process_zero:
            return
        kept = [line for line in self._lines() if json.loads(line)["step"] <= state.global_step]
        self._path.write_text("".join(kept))
        self._started = time.monotonic() - (json.loads(kept[-1])["seconds"] if kept else 0.0)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Logs = None, **_: Any) -> None:
        """Called by the trainer with the numbers that it logs."""
        values = _chosen(logs, "loss", "learning_rate", "eval_loss")
        if not values or not state.is_world_process_zero:
            return
        line = {
            "step": state.global_step,
            "tokens": int(self._tokens[state.global_step - 1]) if state.global_step else 0,
            **values,
            "seconds": round(time.monotonic() - self._started, 3),
        }
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _lines(self) -> list[str]:
        """Complete lines; a killed run may have left an incomplete last line."""
        if not self._path.exists():
            return []
        return [line for line in self._path.read_text().splitlines(keepends=True) if line.endswith("\n")]


class ProgressReporter(TrainerCallback):
    """Calls `report` with the progress of the run, at most once in `seconds` seconds, and at the last step."""

    def __init__(self, report: Callable[[Progress], None], plan: StepPlan, seconds: float = 2.0) -> None:
        self._report = report
        self._tokens = np.cumsum(plan.tokens_of_step)
        self._seconds = seconds
        self._reported = -math.inf
        self._started = (0, time.monotonic())

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Called by the trainer before the first step."""
        self._started = (self._tokens_at(state.global_step), time.monotonic())

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Logs = None, **_: Any) -> None:
        """Called by the trainer with the numbers that it logs."""
        now = time.monotonic()
        last = state.global_step == state.max_steps
        if "loss" not in (logs or {}) or not state.is_world_process_zero:
            return
        if now - self._reported < self._seconds and not last:
            return
        self._reported = now
        tokens = self._tokens_at(state.global_step)
        speed = (tokens - self._started[0]) / max(now - self._started[1], 1e-9)
        self._report(Progress(state.global_step, state.max_steps, tokens, (logs or {})["loss"], speed))

    def _tokens_at(self, step: int) -> int:
        return int(self._tokens[step - 1]) if step else 0


class StopAtNonFinite(TrainerCallback):
    """Stops at the first loss or gradient norm that is not finite, before it can reach a checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> TrainerControl:
        """Called by the trainer after each optimizer step."""
        control.should_log = control.should_log or control.should_save  # check each step before it is saved
        return control

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Logs = None, **_: Any) -> None:
        """Called by the trainer with the numbers that it logs."""
        values = _chosen(logs, "loss", "grad_norm", "eval_loss")
        if all(math.isfinite(value) for value in values.values()):
            return
        raise TrainingError(
            f"Step {state.global_step}: expected finite numbers, got {values}. Earlier checkpoints are good. "
            f"Lower learning_rate (now {args.learning_rate}) or max_grad_norm (now {args.max_grad_norm}), or lengthen "
            f"the warm-up."
        )


class AdaLoraSchedule(TrainerCallback):
    """Lets AdaLoRA prune ranks after each optimizer step, as PEFT requires of a training loop."""

    def on_optimizer_step(self, args: Any, state: TrainerState, control: Any, model: Any = None, **_: Any) -> None:
        """Called by the trainer between the optimizer's step and `zero_grad`."""
        getattr(model, "module", model).base_model.update_and_allocate(state.global_step)


def _chosen(logs: Logs, *names: str) -> dict[str, float]:
    return {name: value for name, value in (logs or {}).items() if name in names}
