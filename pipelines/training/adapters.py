"""Trains and reloads adapters, for the three training assets and the evaluation."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import polars as pl

from pipelines.store.artifacts import Artifact
from pipelines.training.documents import cluster_count, expert_count
from pipelines.training.progress import progress_events
from pipelines.training.recipe import BaseModel, Recipe

if TYPE_CHECKING:
    from hydralora.data import TokenisedDocuments
    from hydralora.evaluation import DocumentLosses
    from hydralora.methods import MethodConfig
    from hydralora.training import TrainingConfig

UNTRAINED = "untrained"
DEFAULT_METHOD = "hydralora_split"
GIVEN_GATES = (DEFAULT_METHOD, "hydralora_sequence")
"""Methods with given gates, which come from `expert_assignment`."""

Log = Callable[[str], object]


@dataclass(frozen=True)
class TrainingJob:
    """One adapter to train: a row of `hydralora.methods`, its seed and its budget.

    Attributes:
        data_seed: Seed of the document order, if not `seed`.
    """

    method: str
    num_experts: int
    seed: int
    max_tokens: int | None = None
    match_parameters: int | None = None
    measure_energy: bool = True
    data_seed: int | None = None

    def settings(self, recipe: Recipe) -> "MethodConfig":
        """The settings of the method."""
        return replace(recipe.method_config(self.num_experts), match_parameters=self.match_parameters)

    def config(self, recipe: Recipe) -> "TrainingConfig":
        """The training configuration."""
        config = recipe.training_config(self.method, max_tokens=self.max_tokens, seed=self.seed)
        return replace(config, data_seed=self.data_seed)


def experts_of(method: str, num_clusters: Artifact, expert_assignment: Artifact) -> int:
    """Number of experts of a method: the number of groups if gates are given, else the number of clusters."""
    return expert_count(expert_assignment) if method in GIVEN_GATES else cluster_count(num_clusters)


def train_adapter(
    log: Log,
    folder: Path,
    training: TrainingJob,
    documents: "TokenisedDocuments",
    recipe: Recipe,
    base_model: BaseModel,
) -> None:
    """Train one adapter into `folder`. A finished one is kept, and a killed training continues."""
    from hydralora.methods import MethodError
    from hydralora.training import RunOptions, TrainingError
    from hydralora.training.run import train_method

    if (folder / "run.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with base_model.lent() as lent:
            train_method(
                training.method,
                training.settings(recipe),
                *lent,
                documents,
                folder,
                training.config(recipe),
                options=RunOptions(
                    progress=progress_events(log, _label(training.method, folder)),
                    measure_energy=training.measure_energy,
                ),
            )
    except (MethodError, TrainingError) as error:
        raise dg.Failure(f"{training.method}: {error}", allow_retries=False) from None


def _label(method: str, folder: Path) -> str:
    """The method, and the folder's name unless it is the method's or that of an unfinished artifact."""
    return method if folder.name == method or folder.suffix == ".partial" else f"{method} ({folder.name})"


def save_untrained(folder: Path, training: TrainingJob, recipe: Recipe, base_model: BaseModel) -> None:
    """Save the initial weights for this seed: the reference for how far training moves them."""
    from peft import get_peft_model
    from transformers import set_seed

    from hydralora.methods import get_method
    from hydralora.training.outputs.checkpoints import save_model

    with base_model.lent() as (model, _):
        peft_config = get_method(training.method).config(model, recipe.method_config(training.num_experts))
        set_seed(training.seed)
        save_model(get_peft_model(model, peft_config), folder)


def held_out_losses(documents: "TokenisedDocuments", folder: Path | None, base_model: BaseModel) -> "DocumentLosses":
    """Answer losses of documents under the adapter or model in `folder`; None means the base model."""
    from hydralora.data import pad_token_id
    from hydralora.evaluation import evaluate_documents

    def measured(model: Any, tokenizer: Any) -> "DocumentLosses":
        adapted = documents.for_adapter(getattr(model, "active_peft_config", None))
        return evaluate_documents(model.eval(), adapted, pad_token_id=pad_token_id(tokenizer))

    if folder is not None and not _is_adapter(folder):
        return measured(*load_adapter(base_model, folder))
    with base_model.lent() as (model, tokenizer):
        return measured(model if folder is None else _adapted(model, folder), tokenizer)


def load_adapter(base_model: BaseModel, folder: Path | None) -> tuple[Any, Any]:
    """The base model with the adapter in `folder`, in evaluation mode, and its tokenizer. None means no adapter.

    After full fine-tuning, the folder holds a whole model, which is loaded instead.
    """
    if folder is not None and not _is_adapter(folder):
        base_model = base_model.model_copy(update={"name": str(folder), "revision": None})
        folder = None
    model, tokenizer = base_model.load()
    return (model if folder is None else _adapted(model, folder)).eval(), tokenizer


def _is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, not a whole model."""
    return (folder / "adapter_config.json").exists()


def _adapted(model: Any, folder: Path) -> Any:
    """A base model with the adapter in `folder`."""
    from peft import PeftModel

    import hydralora  # noqa: F401 - makes PEFT know the method before it reads the adapter's configuration

    with warnings.catch_warnings():
        # PEFT warns that it finds no module for the ranks that AdaLoRA saves.
        warnings.filterwarnings("ignore", "The following rank_pattern keys", RuntimeWarning)
        return PeftModel.from_pretrained(model, folder)


def load_state(folder: Path) -> dict[str, np.ndarray]:
    """Parameter name -> array, for an adapter."""
    from safetensors.numpy import load_file

    return load_file(folder / "adapter_model.safetensors")


def adapter_config(folder: Path) -> dict[str, Any]:
    """The contents of an adapter's `adapter_config.json`, written by PEFT."""
    return json.loads((folder / "adapter_config.json").read_text())


def always_on(folder: Path) -> dict[str, Any]:
    """What an adapter has beside its experts: `shared_expert` and `shared_rank`, False and 0 in a plain LoRA."""
    return {"shared_expert": False, "shared_rank": 0} | {
        name: value for name, value in adapter_config(folder).items() if name in ("shared_expert", "shared_rank")
    }


def read_curve(folder: Path) -> pl.DataFrame:
    """The training curve that `hydralora.training` wrote into a folder."""
    return pl.read_ndjson(folder / "curve.jsonl")
