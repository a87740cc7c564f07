"""Reads loss and gradient norm of a step from the GPU one step later, so that the host never waits for the GPU."""

import dataclasses
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.trainer_pt_utils import nested_gather


@dataclasses.dataclass
class Entry:
    """Values of a step that are on their way to the host.

    Attributes:
        rates: Values that the host knows already.
        values: These values on the host, [names]; valid once `copied` has happened.
        copied: When the copy is done; None on CPUs.
    """

    step: int
    epoch: float | None
    rates: dict[str, float]
    names: tuple[str, ...]
    values: Tensor
    copied: "torch.cuda.Event | None"

    @classmethod
    def of(cls, step: int, epoch: float | None, rates: dict[str, float], tensors: dict[str, Tensor]) -> "Entry":
        """Start the copy."""
        stacked = torch.stack([tensor.detach().float().reshape(()) for tensor in tensors.values()])
        values = torch.empty(len(tensors), pin_memory=stacked.is_cuda)
        values.copy_(stacked, non_blocking=True)
        copied = None
        if stacked.is_cuda:
            copied = torch.cuda.Event()
            copied.record()
        return cls(step, epoch, rates, tuple(tensors), values, copied)

    def logs(self) -> dict[str, float]:
        """All values; waits until the step has been computed."""
        if self.copied is not None:
            self.copied.synchronize()
        return {**dict(zip(self.names, self.values.tolist(), strict=True)), **self.rates}


class LateTrainer(Trainer):
    """A `Trainer` that, on GPUs, logs a step while the next one runs."""

    _late: Entry | None = None

    def _maybe_log_save_evaluate(
        self,
        tr_loss: Tensor,
        grad_norm: Any,
        *arguments: Any,
        learning_rate: float | None = None,
        **options: Any,
    ) -> None:
        """Keep a step's values for later, except before an evaluation, a checkpoint and the end."""
        on_time = _logs_on_time(tr_loss)
        if not on_time and self.control.should_log and self.state.global_step > self._globalstep_last_logged:
            self._log_late()
            tensors = {"loss": nested_gather(tr_loss, self.args.parallel_mode).mean()}
            if isinstance(grad_norm, Tensor):
                tensors["grad_norm"] = grad_norm
            rate = self._get_learning_rate() if learning_rate is None else learning_rate
            self._late = Entry.of(self.state.global_step, self.state.epoch, {"learning_rate": rate}, tensors)
            tr_loss.zero_()
            self._globalstep_last_logged = self.state.global_step
        control = self.control
        if control.should_evaluate or control.should_save or control.should_training_stop or control.should_epoch_stop:
            self._log_late()
        options["learning_rate"] = learning_rate
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *arguments, **options)

    def _log_late(self) -> None:
        """Log the step whose values are still being copied, if any, under its own number."""
        if self._late is None:
            return
        entry, self._late = self._late, None
        logs = entry.logs()
        self._total_loss_scalar += logs["loss"]
        state: Any = self.state
        now = state.global_step, state.epoch
        state.global_step, state.epoch = entry.step, entry.epoch
        try:
            self.log(logs)
        finally:
            state.global_step, state.epoch = now


def _logs_on_time(loss: Tensor) -> bool:
    """Whether to read a step's loss at once: on CPUs, which compute nothing meanwhile."""
    return loss.device.type == "cpu"
