"""Whether the base weights are still those that were loaded, without reading all of them.

What can change a weight leaves a trace: torch counts the writes to each tensor, and a tensor put in its place lies at
another address. Writes past this count (through `.data`, or by a kernel of one's own) are looked for in a sample.
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
    """Address and number of writes of each base parameter; of adapters, nothing."""
    return {name: (parameter.data_ptr(), parameter._version) for name, parameter in base_parameters(model).items()}


@dataclasses.dataclass(frozen=True)
class Witness:
    """The base weights at one time: their traces, and a few values of each."""

    traces: Traces
    samples: dict[str, Tensor]

    @classmethod
    def of(cls, model: Any) -> "Witness":
        """Look at a base model, or at the base of a PEFT model."""
        samples = {name: _sample(parameter) for name, parameter in base_parameters(model).items()}
        return cls(traces(model), samples)

    def saw_a_change(self, model: Any, optimizer: torch.optim.Optimizer | None = None) -> bool | None:
        """True if a weight has changed, False if none has, None if only reading all of them can tell.

        Args:
            optimizer: of the training since then; base weights are none of its business.
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
    """Values at even distances, the first and the last among them, on the parameter's device."""
    from torch.distributed.tensor import DTensor

    whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    values = whole.detach().reshape(-1)
    count = min(_SAMPLES, len(values))
    places = torch.arange(count, device=values.device) * (len(values) - 1) // max(1, count - 1)
    return values[places]


def _differs(now: Tensor, before: Tensor) -> bool:
    """Bit for bit, so that a NaN that was there is no change."""
    return not torch.equal(now.view(torch.uint8), before.to(now.device).view(torch.uint8))


def _tensors_of(optimizer: torch.optim.Optimizer) -> Iterable[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]
