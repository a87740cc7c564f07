"""Runs a training that one JSON file describes, for torchrun and for processes that another program starts.

    {"base_model": {"name_or_path": "embedded"}, "documents": "documents.parquet", "template": "plain",
     "method": "hydralora", "method_config": {"num_experts": 3, "target_modules": ["q_proj", "v_proj"]},
     "config": {"max_tokens": 100000}, "folder": "out"}

    python -m hydralora.training --config training.json
    torchrun --nproc-per-node 2 -m hydralora.training --config training.json

Fields: `base_model` has arguments of `load_base_model`. `documents` and `held_out` are Parquet files, or folders of
tokenised documents (`TokenisedDocuments.save`); `template` and `max_length` apply only to Parquet files. If a
Parquet file has a column `split`, `documents` takes its rows `train`, and `held_out` its rows `test`. `config` has
fields of `TrainingConfig`. Give exactly one of `method` and `peft_config`: `method` names a row of `hydralora.methods`
with the settings `method_config`; `peft_config` has a `peft_type`, or is null to train all weights.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydralora.base_model import load_base_model
from hydralora.data import TokenisedDocuments, documents_of_split, tokenise
from hydralora.methods import MethodConfig, get_method
from hydralora.training.config import QUIET, Progress, RunOptions, TrainingConfig, TrainingResult
from hydralora.training.loop import plan_run, train
from hydralora.training.outputs.identity import num_processes

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_REQUIRED = frozenset({"base_model", "documents", "folder", "config"})
_OPTIONAL = frozenset(
    {"method", "method_config", "peft_config", "held_out", "template", "max_length", "measure_energy", "show_bar"}
)


def main() -> None:
    """Entry of `python -m hydralora.training`."""
    parser = argparse.ArgumentParser(prog="python -m hydralora.training", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON file that describes the run")
    run_from_json(parser.parse_args().config)


def run_from_json(path: Path, progress: Callable[[Progress], None] | None = None) -> TrainingResult:
    """Run the training that a JSON file describes.

    Raises:
        ValueError: If fields are missing or unknown.
        TrainingError: See `train`.
    """
    values = read_description(path)
    folder, config = Path(values["folder"]), TrainingConfig(**values["config"])
    # With fsdp the model may not fit on one GPU, so it is loaded into CPU memory.
    model, tokenizer = load_base_model(on_cpu=config.fsdp, **values["base_model"])
    options = RunOptions(
        held_out=_documents(values.get("held_out"), values, tokenizer, side="test"),
        progress=progress,
        show_bar=values.get("show_bar", False),
        measure_energy=values.get("measure_energy", False),
    )
    documents = _documents(values["documents"], values, tokenizer, side="train")
    assert documents is not None
    if "method" in values:
        settings = MethodConfig(**values.get("method_config", {}))
        return train_method(values["method"], settings, model, tokenizer, documents, folder, config, options=options)
    peft_config = _peft_config(values["peft_config"])
    return train(model, tokenizer, documents, folder, config, peft_config=peft_config, options=options)


def read_description(path: Path) -> dict[str, Any]:
    """The fields of a JSON file that describes a training.

    Raises:
        ValueError: If fields are missing or unknown.
    """
    values = json.loads(path.read_text())
    missing, unknown = _REQUIRED - values.keys(), values.keys() - _REQUIRED - _OPTIONAL
    if missing or unknown:
        raise ValueError(f"{path}: missing fields {sorted(missing)}, unknown fields {sorted(unknown)}")
    if ("method" in values) == ("peft_config" in values):
        raise ValueError(f"{path}: expected exactly one of the fields method and peft_config")
    return dict(values)


def train_method(
    name: str,
    settings: MethodConfig,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    documents: TokenisedDocuments,
    folder: Path,
    config: TrainingConfig,
    *,
    options: RunOptions = QUIET,
) -> TrainingResult:
    """Train any method of `hydralora.methods` end to end, including LoraHub. For the other arguments, see `train`.

    Args:
        settings: Settings of the method; `total_steps` is set from the plan of the run.
        documents: Training documents. Only methods with given gates use their `expert_gates`.
        options: What to measure and report. Only methods with given gates use the `expert_gates` of its held-out
            documents.

    Raises:
        MethodError: If the method does not fit the base model or the settings.
        TrainingError: See `train`.
    """
    from hydralora.training.lorahub import train_lorahub

    method = get_method(name)
    num_steps = plan_run(documents, config, num_processes=num_processes()).num_steps
    peft_config = method.config(model, dataclasses.replace(settings, total_steps=num_steps))
    documents = documents.for_adapter(peft_config)
    if options.held_out is not None:
        options = dataclasses.replace(options, held_out=options.held_out.for_adapter(peft_config))
    if peft_config is not None and method.one_adapter_per_expert:
        return train_lorahub(model, tokenizer, documents, folder, config, peft_config=peft_config, options=options)
    return train(model, tokenizer, documents, folder, config, peft_config=peft_config, options=options)


def _documents(
    path: str | None, values: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase", side: Literal["train", "test"]
) -> TokenisedDocuments | None:
    if path is None:
        return None
    if Path(path).is_dir():
        return TokenisedDocuments.load(Path(path))
    rows = documents_of_split(Path(path), side)
    return tokenise(rows, tokenizer, template=values.get("template", "chat"), max_length=values.get("max_length", 512))


def _peft_config(values: Mapping[str, Any] | None) -> "PeftConfig | None":
    from peft import get_peft_config

    import hydralora  # noqa: F401 - registers HYDRALORA with PEFT

    return None if values is None else get_peft_config(dict(values))
