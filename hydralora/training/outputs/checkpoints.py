"""Writes models as safetensors, and recognises errors that mean a full disk."""

import errno
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from hydralora.adapter.card import sort_adapter_configs

# A checkpoint folder without this file is incomplete, and no run resumes from it.
COMPLETE = "complete"


def save_model(model: Any, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
    """Write an adapter, or a whole model, as safetensors.

    Args:
        state_dict: The weights, if the model is split between processes; else None.
    """
    if hasattr(model, "peft_config"):
        with warnings.catch_warnings():
            # If AdaLoRA keeps no rank of a layer, its matrices are empty, and PEFT warns that saving went wrong.
            warnings.filterwarnings("ignore", r"(?s).*LoRA tensor\(s\) have invalid shape: .*:\(0, ")
            # Otherwise PEFT asks the hub whether the base model's vocabulary has grown.
            model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False)
        sort_adapter_configs(folder)
    else:
        model.save_pretrained(folder, state_dict=state_dict)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means a full disk. torch and safetensors give no errno, only their own messages."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error)
    marks = ("No space left", "os error 28", "PytorchStreamWriter failed", "fail at inline_container", "iostream error")
    return any(mark in text for mark in marks)
