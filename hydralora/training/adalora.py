"""Saves the state of AdaLoRA that PEFT's checkpoint lacks and an exact resume needs.

PEFT's checkpoint omits ranks that are currently masked, although they may return at the next step. It also omits the
running importance that decides which ranks return.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

FILE = "adalora.safetensors"
_AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # PEFT's names for importance, its mean, and its uncertainty


def save_state(model: Any, folder: Path) -> None:
    """Write the unpruned factors, the importance, and the rank pattern of a PEFT model with AdaLoRA."""
    from safetensors.torch import save_file

    pattern = model.active_peft_config.rank_pattern or {}
    groups: dict[str, Mapping[str, torch.Tensor]] = {
        "parameter": dict(_trained(model)),
        "rank_pattern": {name: torch.tensor(kept) for name, kept in pattern.items()},
        **_importance(model),
    }
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous()
        for group, named in groups.items()
        for name, tensor in named.items()
    }
    save_file(tensors, folder / FILE)


def load_state(model: Any, folder: Path) -> None:
    """Restore the state that `save_state` wrote."""
    from safetensors.torch import load_file

    device = next(model.parameters()).device
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(folder / FILE).items():
        group, name = key.split("/", 1)
        groups.setdefault(group, {})[name] = tensor
    with torch.no_grad():
        for name, parameter in _trained(model):
            parameter.copy_(groups["parameter"][name])
    for average, named in _importance(model).items():
        named.clear()
        named.update({name: tensor.to(device) for name, tensor in groups.get(average, {}).items()})
    pattern = {name: kept.tolist() for name, kept in groups.get("rank_pattern", {}).items()}
    model.active_peft_config.rank_pattern = pattern or None


def _trained(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _importance(model: Any) -> dict[str, dict[str, torch.Tensor]]:
    return {average: getattr(model.base_model.rankallocator, average) for average in _AVERAGES}
