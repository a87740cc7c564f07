"""Remembers, on CPUs, what the layers below the lowest adapter made of a batch.

These layers are frozen and the same for every adapter of a base model. So a batch that comes again, for another method
or under other gates, does not run through them again. The results have the same bits.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hydralora.base_model.fingerprint import checksum

_MOST_BYTES = 256 * 2**20  # of each base model; the oldest batch is forgotten first
_PLAIN = (str, int, float, bool, type(None))


class _Memory:
    """Outputs of one base model's lower layers.

    Attributes:
        depth: Number of lower layers in the last use.
        outputs: What the last of them returned, by batch.
    """

    def __init__(self) -> None:
        self.depth: int | None = None
        self.outputs: dict[Any, Any] = {}
        self._bytes = 0

    def keep(self, key: Any, output: Any) -> None:
        tensor = _tensor_in(output)
        if tensor is None or tensor.requires_grad:
            return
        self.outputs[key] = output
        self._bytes += tensor.nbytes
        while self._bytes > _MOST_BYTES:
            oldest = _tensor_in(self.outputs.pop(next(iter(self.outputs))))
            self._bytes -= 0 if oldest is None else oldest.nbytes


@dataclasses.dataclass
class Remembered:
    """Results of remembering.

    Attributes:
        batches: Number of batches that skipped the lower layers.
    """

    batches: int = 0


_memories: "WeakKeyDictionary[nn.Module, _Memory]" = WeakKeyDictionary()


@contextmanager
def remembered_lower_layers(model: Any) -> Iterator[Remembered]:
    """Let batches skip a model's lower layers, while the context lasts, if these layers have seen them before.

    Without effect on GPUs, and for models with dropout or whose lowest layer is adapted or trained.

    Yields:
        A count that grows with each batch that skips them: the time of such a run is not that of a run alone.
    """
    remembered = Remembered()
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    memory = _memories.setdefault(base, _Memory())
    layers = _lower_layers(base, memory.depth) if base.device.type == "cpu" else []
    if not layers or any("forward" in layer.__dict__ for layer in layers):
        yield remembered
        return
    memory.depth = len(layers)
    lower = _LowerLayers(layers, memory, remembered)
    for index, layer in enumerate(layers):
        layer.__dict__["forward"] = partial(lower.forward, index)
    try:
        yield remembered
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


def _lower_layers(base: Any, depth: int | None) -> list[Any]:
    """Layers below the lowest that is adapted or trained; of a plain frozen model, as many as `depth`."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    config = base.config.get_text_config()
    if any("drop" in name and value for name, value in config.to_dict().items() if isinstance(value, float | int)):
        return []
    count = getattr(config, "num_hidden_layers", None)
    lists = [m for m in base.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(lists) != 1:
        return []
    layers = list(lists[0])

    def changes(layer: nn.Module) -> bool:
        adapted = any(isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper) for m in layer.modules())
        return adapted or any(parameter.requires_grad for parameter in layer.parameters())

    lowest = next((index for index, layer in enumerate(layers) if changes(layer)), None)
    return layers[: (depth or 0) if lowest is None else lowest]


class _LowerLayers:
    """Takes the place of the `forward` of all lower layers."""

    def __init__(self, layers: Sequence[Any], memory: _Memory, remembered: Remembered) -> None:
        self._layers, self._memory, self._remembered = layers, memory, remembered
        digest = hashlib.blake2b(digest_size=16)
        for layer in layers:  # also weights that were changed behind autograd's back, as by merging
            for parameter in layer.parameters():
                digest.update(checksum(parameter.detach()).numpy().data)
        self._weights = digest.digest()
        self._key: Any = None

    def forward(self, index: int, *args: Any, **kwargs: Any) -> Any:
        """Run one layer, or pass on its input if the output of the last one is known."""
        if index == 0:
            self._key = self._key_of(args, kwargs)
        is_last = index == len(self._layers) - 1
        if self._key is not None and self._key in self._memory.outputs:
            output = self._memory.outputs[self._key]
            self._remembered.batches += is_last
            return output if is_last else (args[0] if isinstance(output, Tensor) else (args[0],))
        layer = self._layers[index]
        output = type(layer).forward(layer, *args, **kwargs)
        if is_last and self._key is not None:
            self._memory.keep(self._key, output)
        return output

    def _key_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """All that the output depends on; None if something cannot be compared, or sees each layer."""
        if not args or any(layer._forward_hooks or layer._forward_pre_hooks for layer in self._layers):
            return None
        modes = torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        kwargs = {name: kwargs[name] for name in sorted(kwargs) if kwargs[name] is not None}
        known = len(self._layers), self._weights, modes, [*kwargs]
        digest = hashlib.blake2b(repr(known).encode(), digest_size=16)
        values: list[Any] = [*args, *kwargs.values()]
        while values:
            value = values.pop()
            if isinstance(value, tuple | list):
                values += [*value, len(value)]
            elif isinstance(value, Tensor) and not value.requires_grad:
                digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
            elif isinstance(value, _PLAIN):
                digest.update(f"{value!r};".encode())
            else:
                return None
        return digest.digest()


def _tensor_in(output: Any) -> Tensor | None:
    """The tensor that a layer returned, alone or as a tuple of one; None if it returned something else."""
    if isinstance(output, tuple) and len(output) == 1:
        output = output[0]
    return output if isinstance(output, Tensor) else None
