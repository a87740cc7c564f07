"""Which run a folder of unfinished work belongs to, so that only the same run continues it."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydralora.base_model import weights_fingerprint
from hydralora.data import TokenisedDocuments
from hydralora.training.config import TrainingConfig, TrainingError
from hydralora.training.outputs.record import write_json


def num_processes() -> int:
    """Number of processes that train together, as torchrun sets it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process writes the files of a run."""
    return os.environ.get("RANK", "0") == "0"


def run_identity(
    model: Any,
    documents: TokenisedDocuments,
    config: TrainingConfig,
    base_weights: str,
    peft_config: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The values that identify a run: its config, base model and data. They are the first part of its record."""
    # Without `report_to`, because a resumed run may report to other trackers.
    return {
        "config": {name: value for name, value in dataclasses.asdict(config).items() if name != "report_to"},
        "peft_config": peft_config,
        "base_model": {"name": model.name_or_path, "weights": base_weights},
        "data": {"fingerprint": documents.fingerprint(), "documents": len(documents), **documents.counts},
        "num_processes": num_processes(),
    }


def check_base_unchanged(model: Any, base_weights: str) -> None:
    """Compare the base weights with their fingerprint before training.

    Raises:
        TrainingError: If they have changed.
    """
    if weights_fingerprint(model) != base_weights:
        raise TrainingError("The base model's weights changed under an adapter. This is a bug: please report it.")


def claim(folder: Path, run: Mapping[str, Any]) -> None:
    """Mark a folder of unfinished work as this run's.

    Another number of processes may continue it, if a step keeps its number of micro-batches: then each step trains on
    the same documents.

    Raises:
        TrainingError: If it belongs to another run.
    """
    identity = folder / "identity.json"
    values = json.loads(json.dumps(run, default=str))
    if identity.exists():
        there = json.loads(identity.read_text())
        mine, theirs = _without_processes(values), _without_processes(there)
        if differing := list(_differing(mine, theirs)):
            raise TrainingError(
                f"{folder} holds checkpoints of a run with another {', '.join(differing)}. Delete that folder to "
                f"start again, or choose another one."
            )
        if _micro_batches(values) != _micro_batches(there):
            raise TrainingError(
                f"{folder} holds checkpoints of a run with {_micro_batches(there)} micro-batches a step; expected as "
                f"many, got {_micro_batches(values)}: gradient_accumulation_steps times the number of processes, "
                f"{values['num_processes']}. Change gradient_accumulation_steps, or delete that folder to start again."
            )
    elif is_first_process():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(identity, values)


def _differing(mine: Mapping[str, Any], theirs: Mapping[str, Any], under: str = "") -> Iterator[str]:
    """The settings that differ, as `config.tokens_per_step (200, now 100)`."""
    for name in {**theirs, **mine}:
        there, now = theirs.get(name), mine.get(name)
        if isinstance(there, dict) and isinstance(now, dict):
            yield from _differing(now, there, f"{under}{name}.")
        elif there != now:
            yield f"{under}{name} ({there}, now {now})"


def _without_processes(identity: Mapping[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in identity["config"].items() if name != "gradient_accumulation_steps"}
    return {**identity, "config": config, "num_processes": None}


def _micro_batches(identity: Mapping[str, Any]) -> int:
    """Micro-batches of a step, in all processes together."""
    return int(identity["config"]["gradient_accumulation_steps"] * identity["num_processes"])
