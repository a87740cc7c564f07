"""What a run leaves beside its adapter: how it was made, on what, and at what cost."""

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

from hydralora.methods.parameters import count_parameters

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedTokenizerBase

    from hydralora.data import StepPlan, TokenisedDocuments
    from hydralora.evaluation import DocumentLosses

RECORD = "run.json"
_PACKAGES = ("hydralora", "torch", "transformers", "peft", "accelerate", "tokenizers", "datasets", "numpy")


def write_result(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    documents: "TokenisedDocuments",
    folder: Path,
    record: Mapping[str, Any],
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write the trained model, its card and its record into a folder, each file whole; the record comes last.

    A whole model gets its tokenizer as well; an adapter finds both in its base model.

    The record gets the field `reload_difference`: see `reload_difference`.

    Args:
        state_dict: the weights of a model that is split between processes; it is not read back.
    """
    from hydralora.training.checkpoints import save_model
    from hydralora.training.model_card import GROUP_MODEL, model_card

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
def reload_difference(
    model: Any, folder: Path, documents: "TokenisedDocuments", num_documents: int = 4
) -> float | None:
    """Largest difference between the logits of a trained adapter in memory and of the one in its folder.

    0 on CPU; None for a whole model, which would need a second one in memory. The shortest documents tell as much as
    others, and sooner.
    """
    from hydralora.data import collate
    from hydralora.evaluation.answer_loss import answer_logits

    if not hasattr(model, "peft_config"):
        return None
    rows = documents.rows(np.argsort(documents.lengths, kind="stable")[:num_documents])
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in collate(rows, 0).items()}
    was_training, trained = model.training, model.active_adapter
    model.eval()
    in_memory, _, _ = answer_logits(model, batch)
    with warnings.catch_warnings():
        # PEFT finds no module for the ranks that AdaLoRA saves, and says so.
        warnings.filterwarnings("ignore", "The following rank_pattern keys", RuntimeWarning)
        model.load_adapter(str(folder), "reloaded")
    model.set_adapter("reloaded")
    from_disk, _, _ = answer_logits(model, batch)
    model.set_adapter(trained)
    model.delete_adapter("reloaded")
    model.train(was_training)
    return float((in_memory - from_disk).abs().max())


def held_out_values(before: "DocumentLosses | None", after: "DocumentLosses | None") -> dict[str, Any] | None:
    """Mean losses for a record; None without held-out documents, and None of a model not measured before training."""
    if after is None:
        return None
    return {"before": None if before is None else before.means(), "after": after.means()}


def speed_values(plan: "StepPlan", steps: range, seconds: float, seconds_waiting: float) -> dict[str, float]:
    """Real tokens and documents a second, and the share of the time in which the run waited for data.

    Args:
        plan: of the run.
        steps: those that were trained in this time.
        seconds, seconds_waiting: the time, and the part of it spent waiting for batches.
    """
    batches = plan.micro_batches[steps.start * plan.per_step : steps.stop * plan.per_step]
    return {
        "tokens_per_second": round(int(plan.tokens_of_step[steps.start : steps.stop].sum()) / seconds, 1),
        "samples_per_second": round(sum(len(batch) for batch in batches) / seconds, 2),
        "data_wait_share": round(seconds_waiting / seconds, 4),
    }


def peft_values(config: "PeftConfig | None") -> dict[str, Any] | None:
    """A PEFT configuration as JSON values, None for none."""
    return None if config is None else cast(dict[str, Any], json.loads(json.dumps(config.to_dict(), default=_value)))


def _value(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def write_json(path: Path, value: Any) -> None:
    """Write JSON under another name, then rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, default=str) + "\n")
    os.replace(temporary, path)


def parameter_values(model: Any) -> dict[str, int]:
    """Parameters that are trained, by what they are for, and all that the model has then."""
    counts = count_parameters(model)
    parts = {name: count for name, count in dataclasses.asdict(counts).items() if name != "base" and count}
    trains_whole = not hasattr(model, "peft_config")
    return {"trainable": counts.total, "all": counts.base + (0 if trains_whole else counts.total), **parts}


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
