"""Writing models and checkpoints: safetensors only, and a full disk said clearly."""

import errno
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from hydralora.adapter.saved_config import sort_adapter_configs

# A checkpoint folder without this file was cut short, and is never resumed from.
COMPLETE = "complete"


def save_model(model: Any, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
    """Write an adapter, or a whole model, as safetensors; `state_dict` has its weights if the model does not."""
    if hasattr(model, "peft_config"):
        with warnings.catch_warnings():
            # A layer of which AdaLoRA keeps no rank; PEFT takes its empty matrices for a mistake of saving.
            warnings.filterwarnings("ignore", r"(?s).*LoRA tensor\(s\) have invalid shape: .*:\(0, ")
            # Otherwise PEFT asks the hub whether the base's vocabulary has grown.
            model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False)
        sort_adapter_configs(folder)
    else:
        model.save_pretrained(folder, state_dict=state_dict)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means a full disk; torch and safetensors hide the errno in texts of their own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error)
    marks = ("No space left", "os error 28", "PytorchStreamWriter failed", "fail at inline_container", "iostream error")
    return any(mark in text for mark in marks)
