"""Writes the record of a run beside its adapter: settings, data, environment and cost."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from hydralora.adapter.state import in_eval_mode
from hydralora.base_model import remembered_lower_layers
from hydralora.methods.parameters import count_parameters

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedTokenizerBase

    from hydralora.data import StepPlan, TokenisedDocuments
    from hydralora.evaluation import DocumentLosses

RECORD = "run.json"
_ANSWER_TOKENS = 64  # compared per document: all logits of a long one would take gigabytes
_PACKAGES = ("hydralora", "torch", "transformers", "peft", "accelerate", "tokenizers", "datasets", "numpy")


def write_result(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    documents: "TokenisedDocuments",
    folder: Path,
    record: Mapping[str, Any],
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write the trained model, its card and its record into a folder. Each file is written atomically, the record last.

    For full fine-tuning, the tokenizer is written too; an adapter uses that of its base model.

    The record gets the field `reload_difference`, see the function of that name.

    Args:
        state_dict: The weights, if the model is split between processes; such a model is not reloaded to compare.
    """
    from hydralora.training.outputs.checkpoints import save_model
    from hydralora.training.outputs.model_card import GROUP_MODEL, model_card

    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_model(model, partial, state_dict)
    if record["peft_config"] is None:
        tokenizer.save_pretrained(partial)
    model_card(record, has_group_model=(folder / GROUP_MODEL).is_dir()).save(partial / "README.md")
    difference = reload_difference(model, partial, documents) if state_dict is None else None
    for path in sorted(partial.iterdir()):
        os.replace(path, folder / path.name)
    partial.rmdir()
    write_json(folder / RECORD, {**record, "reload_difference": difference})


@torch.inference_mode()
def reload_difference(model: Any, folder: Path, documents: "TokenisedDocuments") -> float | None:
    """Largest absolute difference between the logits of a trained adapter in memory and of its saved copy.

    It is 0 on CPU. It is None for a fully trained model, because a second copy would be needed in memory. It uses the
    beginnings of the four shortest answers, because they are fast and their logits are small.
    """
    from hydralora.data import collate
    from hydralora.evaluation.answer_loss import answer_logits

    if not hasattr(model, "peft_config"):
        return None
    shortest = documents.rows(np.argsort(documents.lengths, kind="stable")[:4])
    rows = [{**row, "input_ids": row["input_ids"][: row["answer_start"] + _ANSWER_TOKENS]} for row in shortest]
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in collate(rows, 0).items()}
    trained = model.active_adapter
    with in_eval_mode(model), remembered_lower_layers(model):
        in_memory, _, _ = answer_logits(model, batch)
        with warnings.catch_warnings():
            # PEFT finds no module for the ranks that AdaLoRA saves, and warns.
            warnings.filterwarnings("ignore", "The following rank_pattern keys", RuntimeWarning)
            model.load_adapter(str(folder), "reloaded")
        model.set_adapter("reloaded")
        from_disk, _, _ = answer_logits(model, batch)
    model.set_adapter(trained)
    model.delete_adapter("reloaded")
    return float((in_memory - from_disk).abs().max())


def held_out_values(before: "DocumentLosses | None", after: "DocumentLosses | None") -> dict[str, Any] | None:
    """Mean losses for a record; None without held-out documents. `before` is None if it was not measured."""
    if after is None:
        return None
    return {"before": None if before is None else before.means(), "after": after.means()}


def speed_values(plan: "StepPlan", steps: range, seconds: float, seconds_waiting: float) -> dict[str, float]:
    """Tokens (without padding) and documents per second, and the share of the time in which the run waited for data.

    Args:
        steps: Steps that were trained in this time.
        seconds: The time in seconds.
        seconds_waiting: Part of it in which the run waited for batches, in seconds.
    """
    batches = plan.micro_batches[steps.start * plan.per_step : steps.stop * plan.per_step]
    return {
        "tokens_per_second": round(int(plan.tokens_of_step[steps.start : steps.stop].sum()) / seconds, 1),
        "samples_per_second": round(sum(len(batch) for batch in batches) / seconds, 2),
        "data_wait_share": round(seconds_waiting / seconds, 4),
    }


def peft_values(config: "PeftConfig | None") -> dict[str, Any] | None:
    """A PEFT config as JSON values; None for None."""
    return None if config is None else cast(dict[str, Any], json.loads(json.dumps(config.to_dict(), default=_value)))


def _value(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: under a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, default=str) + "\n")
    os.replace(temporary, path)


def parameter_values(model: Any) -> dict[str, int]:
    """Numbers of trained parameters by purpose, and of all parameters of the model with its adapter."""
    counts = count_parameters(model)
    parts = {name: count for name, count in dataclasses.asdict(counts).items() if name != "base" and count}
    trains_whole = not hasattr(model, "peft_config")
    return {"trainable": counts.total, "all": counts.base + (0 if trains_whole else counts.total), **parts}


def environment() -> dict[str, Any]:
    """Versions and hardware, without names of persons or machines."""
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
