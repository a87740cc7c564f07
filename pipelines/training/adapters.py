"""Training and reloading adapters for the assets: what the three training assets and the evaluation share."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from pipelines.store.artifacts import Artifact, Draft
from pipelines.training.progress import progress_events
from pipelines.training.recipe import BaseModel, Recipe

if TYPE_CHECKING:
    from hydralora.data import TokenisedDocuments
    from hydralora.evaluation import DocumentLosses

UNTRAINED = "untrained"
SEQUENCE_GATES = "hydralora_sequence"
GIVEN_GATES = (SEQUENCE_GATES, "hydralora_split")
"""Methods whose experts are chosen by the prompt, not by a router."""
"""The method whose gates are given, by `prompt_gates`."""

Log = Callable[[str], object]


@dataclass(frozen=True)
class Training:
    """One adapter to train: a row of `hydralora.methods`, its documents and its seed."""

    method: str
    num_experts: int
    seed: int
    max_tokens: int | None = None
    match_parameters: int | None = None
    measure_energy: bool = True


def documents_table(
    corpus_documents: Artifact, cluster_labels: Artifact, prompt_gates: Artifact | None = None
) -> pl.LazyFrame:
    """Documents with their cluster and, on request, their expert as a one-hot vector, `expert_gates`.

    These gates are for methods that take them from outside: a document's own group in training, and held out the
    group that its prompt tells, as when the model is served.
    """
    labels = cluster_labels.scan("labels").select("document_id", "cluster")
    documents = (
        corpus_documents.scan("documents")
        .select("document_id", "source", "task", "split", "prompt", "completion")
        .join(labels, on="document_id", how="inner", maintain_order="left")
    )
    if prompt_gates is None:
        return documents
    experts = prompt_gates.scan("experts").select("document_id", "expert")
    one_hot = [(pl.col("expert") == i).cast(pl.Float32) for i in range(expert_count(prompt_gates))]
    return (
        documents.join(experts, on="document_id", how="inner", maintain_order="left")
        .with_columns(expert_gates=pl.concat_list(one_hot))
        .drop("expert")
    )


def expert_count(artifact: Artifact) -> int:
    """N as `num_experts` (the elbow's) or `prompt_gates` (of the groups that have an expert each) says it."""
    return int(artifact.json(artifact.asset)["num_experts"])


def experts_of(method: str, num_experts: Artifact, prompt_gates: Artifact) -> int:
    """N of a method: that of the elbow, but where gates are given, there is an expert for each group."""
    return expert_count(prompt_gates if method in GIVEN_GATES else num_experts)


def tokenised(draft: Draft, name: str, documents: pl.LazyFrame, tokenizer: Any, recipe: Recipe) -> "TokenisedDocuments":
    """Tokens of documents, memory-mapped from a table in the draft."""
    from hydralora.data import tokenise

    draft.write_table(name, documents)
    return tokenise(draft.folder / f"{name}.parquet", tokenizer, template=recipe.template, max_length=recipe.max_length)


def for_adapter(documents: "TokenisedDocuments", adapter_config: Any) -> "TokenisedDocuments":
    """The documents as an adapter wants them: with gates only if it takes them from outside."""
    has_gates = "expert_gates" in documents.dataset.column_names
    if getattr(adapter_config, "router_input", None) == "sequence" or not has_gates:
        return documents
    return replace(documents, dataset=documents.dataset.remove_columns("expert_gates"))


def train_adapter(
    log: Log,
    folder: Path,
    training: Training,
    documents: "TokenisedDocuments",
    recipe: Recipe,
    base_model: BaseModel,
) -> None:
    """Train one adapter into `folder`, or leave it alone when it is there already (a killed run continues)."""
    from hydralora.methods import MethodError
    from hydralora.training import TrainingError
    from hydralora.training.run import train_method

    if (folder / "run.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    settings = replace(recipe.settings(training.num_experts), match_parameters=training.match_parameters)
    try:
        train_method(
            training.method,
            settings,
            *base_model.load(),
            documents,
            folder,
            recipe.training_config(training.method, max_tokens=training.max_tokens, seed=training.seed),
            progress=progress_events(log, f"{training.method} ({folder.name})"),
            measure_energy=training.measure_energy,
        )
    except (MethodError, TrainingError) as error:
        raise dg.Failure(f"{training.method}: {error}", allow_retries=False) from error


def save_untrained(folder: Path, training: Training, recipe: Recipe, base_model: BaseModel) -> None:
    """Write an adapter as `train_adapter` starts from it: the origin from which a trained one of the seed has moved."""
    from peft import get_peft_model
    from transformers import set_seed

    from hydralora.methods import get_method

    model, _ = base_model.load()
    peft_config = get_method(training.method).config(model, recipe.settings(training.num_experts))
    set_seed(training.seed)
    get_peft_model(model, peft_config).save_pretrained(folder, save_embedding_layers=False)


def held_out_losses(documents: "TokenisedDocuments", folder: Path | None, base_model: BaseModel) -> "DocumentLosses":
    """Answer losses of documents under what was trained into a folder, under the base model for None."""
    from hydralora.data import pad_token_id
    from hydralora.evaluation import evaluate_documents

    model, tokenizer = load_adapter(base_model, folder)
    adapter_config = getattr(model, "active_peft_config", None)
    return evaluate_documents(model, for_adapter(documents, adapter_config), pad_token_id=pad_token_id(tokenizer))


def load_adapter(base_model: BaseModel, folder: Path | None) -> tuple[Any, Any]:
    """The base model with what was trained into a folder (as it is for None), in evaluation mode, and its tokenizer.

    After full fine-tuning the folder holds a whole model in place of an adapter.
    """
    import hydralora  # noqa: F401 - makes PEFT know the method before it reads the adapter's configuration

    if folder is not None and not (folder / "adapter_config.json").exists():
        base_model = base_model.model_copy(update={"name": str(folder), "revision": None})
        folder = None
    model, tokenizer = base_model.load()
    if folder is not None:
        from peft import PeftModel

        with warnings.catch_warnings():
            # PEFT finds no module for the ranks that AdaLoRA saves, and says so.
            warnings.filterwarnings("ignore", "The following rank_pattern keys", RuntimeWarning)
            model = PeftModel.from_pretrained(model, folder)
    return model.eval(), tokenizer
