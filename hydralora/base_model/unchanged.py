"""Checks whether the base weights are still those that were loaded, without reading all of them.

Most changes leave a trace: torch counts the writes to each tensor, and a replaced tensor has another address. Writes
that torch does not count (through `.data`, or by a custom kernel) are detected in a sample of values.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hydralora.base_model.fingerprint import base_parameters

_SAMPLES = 512  # values of each parameter
Traces = dict[str, tuple[int, int]]


def traces(model: Any) -> Traces:
    """Address and number of writes of each base parameter, without adapters."""
    return {name: (parameter.data_ptr(), parameter._version) for name, parameter in base_parameters(model).items()}


@dataclasses.dataclass(frozen=True)
class Witness:
    """The base weights at one time: their traces, and a few values of each parameter."""

    traces: Traces
    samples: dict[str, Tensor]

    @classmethod
    def of(cls, model: Any) -> "Witness":
        """Record the weights of a base model, or of the base of a PEFT model."""
        samples = {name: _sample(parameter) for name, parameter in base_parameters(model).items()}
        return cls(traces(model), samples)

    def saw_a_change(self, model: Any, optimizer: torch.optim.Optimizer | None = None) -> bool | None:
        """True if a weight has changed, False if none has, None if only reading all of them can tell.

        Args:
            optimizer: Optimizer of the training since then. If it holds base weights, the result is never False.
        """
        parameters = base_parameters(model)
        if parameters.keys() != self.samples.keys():
            return None
        if any(_differs(_sample(parameter), self.samples[name]) for name, parameter in parameters.items()):
            return True
        trained = set() if optimizer is None else {id(tensor) for tensor in _tensors_of(optimizer)}
        touched = any(parameter.requires_grad or id(parameter) in trained for parameter in parameters.values())
        return None if touched or traces(model) != self.traces else False


def _sample(parameter: Tensor) -> Tensor:
    """Evenly spaced values, including the first and the last, on the parameter's device."""
    from torch.distributed.tensor import DTensor

    whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    values = whole.detach().reshape(-1)
    count = min(_SAMPLES, len(values))
    places = torch.arange(count, device=values.device) * (len(values) - 1) // max(1, count - 1)
    return values[places]


def _differs(now: Tensor, before: Tensor) -> bool:
    """Whether any bit differs. Bits are compared, so that a NaN equals the same NaN."""
    return not torch.equal(now.view(torch.uint8), before.to(now.device).view(torch.uint8))


def _tensors_of(optimizer: torch.optim.Optimizer) -> Iterable[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]
