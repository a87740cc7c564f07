"""A run described in one JSON file, for torchrun and for processes that another program starts.

    {"base_model": {"name_or_path": "embedded"}, "documents": "documents.parquet", "held_out": null,
     "template": "chat", "max_length": 512, "folder": "out", "config": {"max_tokens": 100000},
     "peft_config": {"peft_type": "LORA", "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}}

`torchrun --nproc-per-node 2 -m hydralora.training --config run.json`
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydralora.base_model import load_base_model
from hydralora.data import tokenise
from hydralora.training import TrainingConfig, TrainingResult, train

if TYPE_CHECKING:
    from peft import PeftConfig

_REQUIRED = frozenset({"base_model", "documents", "folder", "config", "peft_config"})
_OPTIONAL = frozenset({"held_out", "template", "max_length"})


def main() -> None:
    """Entry of `python -m hydralora.training`."""
    parser = argparse.ArgumentParser(prog="python -m hydralora.training", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON file that describes the run")
    run_from_json(parser.parse_args().config)


def run_from_json(path: Path) -> TrainingResult:
    """Run what a JSON file describes.

    Raises:
        ValueError: fields that are missing or unknown.
    """
    values = json.loads(path.read_text())
    missing, unknown = _REQUIRED - values.keys(), values.keys() - _REQUIRED - _OPTIONAL
    if missing or unknown:
        raise ValueError(f"{path}: missing fields {sorted(missing)}, unknown fields {sorted(unknown)}")
    model, tokenizer = load_base_model(**values["base_model"])
    options = {"template": values.get("template", "chat"), "max_length": values.get("max_length", 512)}
    held_out = values.get("held_out")
    return train(
        model,
        tokenizer,
        tokenise(Path(values["documents"]), tokenizer, **options),
        Path(values["folder"]),
        TrainingConfig(**values["config"]),
        peft_config=_peft_config(values["peft_config"]),
        held_out=None if held_out is None else tokenise(Path(held_out), tokenizer, **options),
    )


def _peft_config(values: Mapping[str, Any] | None) -> "PeftConfig | None":
    from peft import get_peft_config

    import hydralora  # noqa: F401 - makes PEFT know HYDRALORA

    return None if values is None else get_peft_config(dict(values))
