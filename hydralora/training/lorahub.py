"""Trains LoraHub end to end: one LoRA for each cluster, then the search that composes them."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hydralora.base_model import weights_fingerprint
from hydralora.data import TokenisedDocuments
from hydralora.evaluation import evaluate_documents
from hydralora.training.config import QUIET, Progress, RunOptions, TrainingConfig, TrainingError, TrainingResult
from hydralora.training.loop import clear_errors, plan_run, train
from hydralora.training.lorahub_search import BUDGET, check_nevergrad, compose_lorahub
from hydralora.training.outputs.energy import EnergyMeter
from hydralora.training.outputs.identity import (
    check_base_unchanged,
    claim,
    is_first_process,
    num_processes,
    run_identity,
)
from hydralora.training.outputs.record import (
    RECORD,
    environment,
    held_out_values,
    parameter_values,
    peft_values,
    write_result,
)

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EXAMPLES_PER_CLUSTER = 5


def train_lorahub(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    documents: TokenisedDocuments,
    folder: Path,
    config: TrainingConfig,
    *,
    peft_config: "PeftConfig",
    options: RunOptions = QUIET,
    budget: int = BUDGET,
    examples_per_cluster: int = EXAMPLES_PER_CLUSTER,
) -> TrainingResult:
    """Train a LoRA for each cluster, compose them, and write the same files into `folder` as `train`.

    The optimizer steps of `config` are divided among the clusters in proportion to their tokens (at least one step
    each). So LoraHub sees as many tokens as the methods it is compared with. All LoRAs start from the same A. The
    search uses training documents of each cluster, drawn with the seed. The LoRAs are trained without evaluation or
    early stopping.

    `run.json` has the sums over all LoRAs, and the search under `lorahub`. Each LoRA and its own record stay in
    `folder/components`. A killed run continues when it is called again.

    Args:
        documents: Training documents with a `cluster`. Arguments that are not listed are as in `train`.
        budget: Number of evaluations in the search.
        examples_per_cluster: Number of documents of each cluster for the search.

    Raises:
        ModuleNotFoundError: If nevergrad is not installed.
        TrainingError: If there are fewer than two clusters, or for the reasons in `train`.
    """
    check_nevergrad()
    held_out, progress = options.held_out, options.progress
    if config.fsdp:
        raise TrainingError("LoraHub does not split its base model (fsdp): the search needs the whole model")
    if config.is_mixed:
        raise TrainingError(
            "LoraHub trains a LoRA for each cluster, so it does not mix sources: leave out mixing_temperature, "
            "mixing_weights and mixing_cap, or choose another method"
        )
    base_weights = weights_fingerprint(model)
    shares = _shares(documents, config)
    folders = [folder / "components" / share.name for share in shares]
    identity = run_identity(model, documents, config, base_weights, peft_values(peft_config))
    claim(folder / "components", {**identity, "budget": budget, "examples_per_cluster": examples_per_cluster})
    before = None if held_out is None else evaluate_documents(model, held_out, pad_token_id=0)
    records: list[dict[str, Any]] = []
    for share, component in zip(shares, folders, strict=True):
        if not (component / RECORD).exists():
            trained: Any = train(
                model,
                tokenizer,
                share.documents,
                component,
                share.config,
                peft_config=peft_config,
                options=dataclasses.replace(
                    options,
                    held_out=None,
                    progress=None if progress is None else _as_part(progress, shares, records),
                ),
            ).model
            model = trained.unload().eval()
        records.append(json.loads((component / RECORD).read_text()))
    examples = _examples(documents, shares, examples_per_cluster, config.seed)
    started, cpu_started = time.monotonic(), time.process_time()
    with clear_errors(config, folder), EnergyMeter(enabled=options.measure_energy) as energy:
        composed, search = compose_lorahub(model, folders, examples, budget=budget, seed=config.seed)
    cost = {
        "seconds": time.monotonic() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "energy": None if energy.use is None else dataclasses.asdict(energy.use),
    }
    after = None if held_out is None else evaluate_documents(composed, held_out, pad_token_id=0)
    check_base_unchanged(composed, base_weights)
    parameters = parameter_values(composed)
    record = {
        **identity,
        "parameters": {name: n if name == "all" else n * len(shares) for name, n in parameters.items()},
        **_sums([*records, cost]),
        "held_out": held_out_values(before, after),
        "lorahub": {
            **dataclasses.asdict(search),
            **_parts(shares, records),
            "examples": len(examples),
            "search_tokens": int(examples.lengths.sum()) * search.evaluations,
            "search_seconds": cost["seconds"],
            "saved_parameters": parameters["trainable"],
        },
        "environment": environment(),
    }
    if is_first_process():
        with clear_errors(config, folder):
            _join_curves(folders, folder / "curve.jsonl")
            write_result(composed, tokenizer, documents, folder, record)
    return TrainingResult(composed, folder, record, before, after)


@dataclasses.dataclass(frozen=True)
class _Share:
    """The documents of one cluster, and its part of the budget."""

    name: str
    rows: np.ndarray
    documents: TokenisedDocuments
    config: TrainingConfig

    @property
    def num_steps(self) -> int:
        assert self.config.max_steps is not None
        return self.config.max_steps


def _shares(documents: TokenisedDocuments, config: TrainingConfig) -> list[_Share]:
    if "cluster" not in documents.dataset.column_names:
        raise TrainingError("LoraHub trains a LoRA for each cluster; the documents have no column `cluster`")
    clusters = np.asarray(documents.column("cluster"))
    names = np.unique(clusters)
    if len(names) < 2:
        raise TrainingError(f"LoraHub composes at least two LoRAs; all documents are of cluster {names[0]}")
    rows = [np.flatnonzero(clusters == name) for name in names]
    steps = apportion(
        plan_run(documents, config, num_processes=num_processes()).num_steps,
        [documents.lengths[part].sum() for part in rows],
    )
    return [
        _Share(f"cluster-{name}", part, documents.take(part), _config_of(config, len(part), n))
        for name, part, n in zip(names, rows, steps, strict=True)
    ]


def _config_of(config: TrainingConfig, num_documents: int, steps: int) -> TrainingConfig:
    """The run's configuration for one cluster, which may have fewer documents than a step has micro-batches."""
    return dataclasses.replace(
        config,
        max_steps=steps,
        max_tokens=None,
        num_train_epochs=None,
        eval_steps=None,
        early_stopping_patience=None,
        gradient_accumulation_steps=max(1, min(config.gradient_accumulation_steps, num_documents // num_processes())),
    )


def _examples(
    documents: TokenisedDocuments, shares: Sequence[_Share], per_cluster: int, seed: int
) -> TokenisedDocuments:
    random = np.random.default_rng(seed)
    return documents.take(np.concatenate([random.permutation(share.rows)[:per_cluster] for share in shares]))


def _parts(shares: Sequence[_Share], records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Names, steps and tokens of the LoRAs, in the order of the weights."""
    return {"adapters": [share.name for share in shares]} | {
        name: [record[name] for record in records] for name in ("steps", "tokens")
    }


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Integers in proportion to weights, each at least 1, with the sum `total` if possible (largest remainders)."""
    exact = np.asarray(weights, dtype=np.float64) / np.sum(weights) * total
    parts = np.maximum(np.floor(exact), 1).astype(int)
    for i in np.argsort(parts - exact, kind="stable")[: max(0, total - int(parts.sum()))]:
        parts[i] += 1
    while parts.sum() > total and parts.max() > 1:
        parts[parts.argmax()] -= 1
    return [int(part) for part in parts]


def _as_part(
    progress: Callable[[Progress], None], shares: Sequence[_Share], records: Sequence[Mapping[str, Any]]
) -> Callable[[Progress], None]:
    """Report the progress of the next LoRA as progress of the whole run."""
    num_steps = sum(share.num_steps for share in shares)
    steps, tokens = (sum(record[name] for record in records) for name in ("steps", "tokens"))
    return lambda part: progress(
        dataclasses.replace(part, step=steps + part.step, num_steps=num_steps, tokens=tokens + part.tokens)
    )


def _sums(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Steps, tokens, time and energy of all parts together."""
    uses = [part["energy"] for part in parts]
    tokens = sum(part.get("tokens", 0) for part in parts)
    padded = sum(part["tokens"] / (1 - part["padding_share"]) for part in parts if "tokens" in part)
    return {
        "steps": sum(part.get("steps", 0) for part in parts),
        "tokens": tokens,
        "padding_share": round(1 - tokens / padded, 4),
        "remembered_batches": sum(part.get("remembered_batches", 0) for part in parts),
        "seconds": round(sum(part["seconds"] for part in parts), 2),
        "cpu_seconds": round(sum(part["cpu_seconds"] for part in parts), 2),
        "energy": {name: sum(use[name] for use in uses) for name in uses[0]} if all(uses) else None,
    }


def _join_curves(folders: Sequence[Path], path: Path) -> None:
    """Join the curves of the LoRAs; steps, tokens and seconds continue from one to the next."""
    lines: list[str] = []
    offset = {"step": 0, "tokens": 0, "seconds": 0.0}
    for folder in folders:
        rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
        lines += [json.dumps({**row, **{name: row[name] + offset[name] for name in offset}}) for row in rows]
        offset = {name: rows[-1][name] + offset[name] for name in offset}
    path.write_text("\n".join(lines) + "\n")
