"""A fingerprint of the base weights, which an adapter must not change."""

import hashlib
from typing import Any

import torch


def weights_fingerprint(model: Any) -> str:
    """Hash of name, dtype, shape and bytes of every base parameter, 16 hex digits.

    It leaves out parameters of adapters and undoes PEFT's renaming of wrapped layers. So the value is the same before
    and after `get_peft_model`.
    """
    from torch.distributed.tensor import DTensor

    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in sorted(base_parameters(model).items()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter  # split between processes
        digest.update(whole.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    names: set[str] = set()
    for module_name, module in base.named_modules():
        if isinstance(module, BaseTunerLayer):
            original = "base_layer."
        elif isinstance(module, AuxiliaryTrainingWrapper):
            original = "original_module."
        else:
            continue
        names |= {f"{module_name}.{name}" for name, _ in module.named_parameters() if not name.startswith(original)}
    return names
