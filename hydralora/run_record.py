"""What a run leaves beside its adapter: how it was made, on what, and at what cost."""

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

RECORD = "run.json"
_PACKAGES = ("hydralora", "torch", "transformers", "peft", "accelerate", "tokenizers", "datasets", "numpy")


def write_result(model: Any, folder: Path, record: Mapping[str, Any]) -> None:
    """Write the trained model and its record into a folder, each file whole; the record comes last."""
    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    options = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
    model.save_pretrained(partial, **options)
    for path in sorted(partial.iterdir()):
        os.replace(path, folder / path.name)
    partial.rmdir()
    write_json(folder / RECORD, record)


def write_json(path: Path, value: Any) -> None:
    """Write JSON under another name, then rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, default=str) + "\n")
    os.replace(temporary, path)


def parameter_values(model: torch.nn.Module) -> dict[str, int]:
    """Trainable and all parameters."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {
        "trainable": sum(count for count, trainable in counts if trainable),
        "all": sum(count for count, _ in counts),
    }


def environment() -> dict[str, Any]:
    """Versions and hardware, without anything that names a person or a machine."""
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES if _installed(name)},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
