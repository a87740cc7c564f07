"""A fingerprint of the base weights, which an adapter must not change."""

import hashlib
from typing import Any

import torch
from torch import Tensor

_ROW = 1024  # words of 8 bytes that are added up
_SAMPLES = 512  # words of each parameter


def weights_fingerprint(model: Any) -> str:
    """Hash of name, dtype, shape and a checksum of the bytes of every base parameter, 16 hex digits.

    All bytes are read, where the weights are: 0.05 s per GB on a core, less on a GPU. It leaves out parameters of
    adapters and undoes PEFT's renaming of wrapped layers. So the value is the same before and after `get_peft_model`.
    """
    from torch.distributed.tensor import DTensor

    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in sorted(base_parameters(model).items()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter  # split between processes
        digest.update(checksum(whole.detach()).cpu().numpy().data)
    return digest.hexdigest()


def checksum(weights: Tensor) -> Tensor:
    """Sums of all bytes, row by row, and single words against changes of order within a row; int64."""
    flat = weights.contiguous().view(-1).view(torch.uint8)
    if flat.storage_offset() % 8:
        flat = flat.clone()  # torch reads words only at multiples of their size
    whole = len(flat) // 8
    words, rest = flat[: whole * 8].view(torch.int64), flat[whole * 8 :].long()
    rows = whole // _ROW
    sums = words[: rows * _ROW].view(rows, _ROW).sum(1)
    return torch.cat([sums, words[rows * _ROW :], rest, words[:: max(1, whole // _SAMPLES)]])


def base_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Parameters of a base model, or of the base of a PEFT model, by their names without adapters."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapter_names = _adapter_parameter_names(base)
    return {
        name.replace(".base_layer.", ".").replace(".original_module.", "."): parameter
        for name, parameter in base.named_parameters()
        if name not in adapter_names
    }


def _adapter_parameter_names(base: torch.nn.Module) -> set[str]:
    names: set[str] = set()
    for module_name, module in base.named_modules():
        original = original_attribute(module)
        if original is not None:
            own = f"{original}."
            names |= {f"{module_name}.{name}" for name, _ in module.named_parameters() if not name.startswith(own)}
    return names


def original_attribute(module: torch.nn.Module) -> str | None:
    """The attribute in which one of PEFT's modules keeps the base model's own; None for any other module."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    if isinstance(module, BaseTunerLayer):
        return "base_layer"
    return "original_module" if isinstance(module, AuxiliaryTrainingWrapper) else None
