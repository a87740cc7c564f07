"""Reads loss and gradient norm of a step from the GPU one step later, so that the host never waits for the GPU."""

import dataclasses

import torch
from torch import Tensor


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
