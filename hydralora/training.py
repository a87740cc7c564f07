"""Training any PEFT method, or the whole model, on documents: one loop, the same data and reports for each.

The loop is transformers' `Trainer`; ours are only the loss (answers alone, see `answer_loss`), the planned order of
batches (see `batching`) and checkpoints that are whole or absent (see `checkpoints`).

`torchrun --nproc-per-node 2 -m hydralora.training --config run.json` trains on several processes.
"""

import dataclasses
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hydralora.base_model import weights_fingerprint
from hydralora.batching import PlannedBatches, StepPlan, plan_steps
from hydralora.data import Batch, TokenisedDocuments, collate, pad_token_id
from hydralora.evaluation import DocumentLosses, evaluate_documents
from hydralora.run_record import environment, parameter_values, write_json, write_result

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

    from hydralora.trainer import AnswerTrainer

AuxiliaryLoss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]


class TrainingError(RuntimeError):
    """A run that stopped, with the reason and the way out. Its last good checkpoint is kept."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides a run beside its data, its base model and its PEFT configuration.

    Exactly one of `max_steps`, `max_tokens`, `num_train_epochs` is the budget. Names are transformers' where it has one.
    """

    max_steps: int | None = None
    max_tokens: int | None = None
    num_train_epochs: float | None = None
    learning_rate: float = 1e-3
    # Name fragment of parameters -> factor on the learning rate, e.g. {"lora_B": 16.0} for LoRA+.
    learning_rate_ratios: Mapping[str, float] = dataclasses.field(default_factory=dict)
    lr_scheduler_type: str = "cosine"
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    tokens_per_step: int = 4096
    gradient_accumulation_steps: int = 4
    gradient_checkpointing: bool = False
    # Mixed precision by autocast: on GPUs, float32 adapters would otherwise multiply in float32.
    autocast: bool = dataclasses.field(default_factory=torch.cuda.is_available)
    save_steps: int = 50
    # Held-out loss every so many steps; with `early_stopping_patience`, the best checkpoint becomes the result.
    eval_steps: int | None = None
    early_stopping_patience: int | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run can tell while it goes on."""

    step: int
    num_steps: int
    tokens: int
    loss: float
    tokens_per_second: float


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A finished run: the trained model in memory, its folder, and its held-out losses before and after."""

    model: "PeftModel | PreTrainedModel"
    folder: Path
    record: Mapping[str, Any]
    held_out_before: DocumentLosses | None
    held_out_after: DocumentLosses | None


def plan_run(documents: TokenisedDocuments, config: TrainingConfig, *, num_processes: int = 1) -> StepPlan:
    """The batches of a run; its `num_steps` is what schedules such as AdaLoRA's need."""
    return plan_steps(
        documents.lengths,
        tokens_per_step=config.tokens_per_step,
        micro_batches_per_step=config.gradient_accumulation_steps * num_processes,
        max_steps=config.max_steps,
        max_tokens=config.max_tokens,
        num_epochs=config.num_train_epochs,
        seed=config.seed,
    )


def train(
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    documents: TokenisedDocuments,
    folder: Path,
    config: TrainingConfig,
    *,
    peft_config: "PeftConfig | None" = None,
    held_out: TokenisedDocuments | None = None,
    auxiliary_loss: AuxiliaryLoss | None = None,
    progress: Callable[[Progress], None] | None = None,
    show_bar: bool = False,
) -> TrainingResult:
    """Train an adapter (or the whole model) and write it, its curve, its record and its card into `folder`.

    A run that was killed continues from its last checkpoint in `folder` when called again with the same arguments, to
    the same final weights (bit for bit on CPU).

    Args:
        model: the base model, changed in place by `peft_config`; a model that already has an adapter is trained as it
            is; a base model without `peft_config` is trained whole.
        tokenizer: of the base model.
        documents: to train on.
        folder: where the results and, until it is done, the checkpoints go.
        config: budget, rates, batches.
        peft_config: what to train.
        held_out: documents for the loss before, during (`eval_steps`) and after.
        auxiliary_loss: added to the loss, called after each forward pass with the model and the batch.
        progress: called every two seconds at most.
        show_bar: a bar in the terminal.

    Raises:
        TrainingError: a loss that is no number, no memory, no disk space.
    """
    from transformers import set_seed

    started = time.monotonic()
    set_seed(config.seed)
    plan = plan_run(documents, config, num_processes=_num_processes())
    base_weights = weights_fingerprint(model)
    model = _prepare(model, peft_config)
    run = {
        "config": dataclasses.asdict(config),
        "peft_config": _peft_values(model),
        "base_model": {"name": model.name_or_path, "weights": base_weights},
        "data": _data_values(documents, plan),
        "num_processes": _num_processes(),
    }
    checkpoints = folder / "checkpoints"
    _claim(checkpoints, run)
    evaluate = None
    if held_out is not None:
        evaluate = partial(evaluate_documents, model, held_out, pad_token_id=pad_token_id(tokenizer))
    trainer = _build_trainer(model, tokenizer, documents, config, plan, checkpoints, evaluate, auxiliary_loss, show_bar)
    for callback in _callbacks(folder, config, plan, model, progress):
        trainer.add_callback(callback)
    before = evaluate() if evaluate else None
    with _clear_memory_errors(config):
        trainer.train(resume_from_checkpoint=_last_checkpoint(checkpoints))
    after = evaluate() if evaluate else None
    if peft_config is not None and weights_fingerprint(model) != base_weights:
        raise TrainingError("The base model's weights changed under an adapter. This is a bug: please report it.")
    record = {
        **run,
        "parameters": parameter_values(model),
        "steps": trainer.state.global_step,
        "tokens": int(plan.tokens_of_step[: trainer.state.global_step].sum()),
        "seconds": round(time.monotonic() - started, 2),
        "held_out": _held_out_values(before, after),
        "environment": environment(),
    }
    if trainer.is_world_process_zero():
        write_result(model, folder, record)
        shutil.rmtree(checkpoints)
    trainer.accelerator.wait_for_everyone()
    return TrainingResult(model, folder, record, before, after)


def _prepare(model: Any, peft_config: "PeftConfig | None") -> Any:
    """The model with its new adapter in float32; a base model without one with all its weights trainable in float32.

    Weights in bfloat16 cannot be trained as they are: a step is smaller than the gap between neighbouring numbers.
    """
    from peft import PeftModel, get_peft_model

    if peft_config is not None:
        if isinstance(model, PeftModel):
            raise ValueError("Expected a base model for a new adapter, got a model that already has one")
        return get_peft_model(model, peft_config)
    return model if isinstance(model, PeftModel) else model.float().requires_grad_(True)


def _claim(checkpoints: Path, run: Mapping[str, Any]) -> None:
    """Make the folder of checkpoints this run's own.

    Raises:
        TrainingError: it holds checkpoints of another run.
    """
    identity = checkpoints / "run.json"
    values = json.loads(json.dumps(run, default=str))
    if identity.exists():
        differing = [name for name, value in json.loads(identity.read_text()).items() if values.get(name) != value]
        if differing:
            raise TrainingError(
                f"{checkpoints} holds checkpoints of a run with another {', '.join(differing)}. Delete that folder to "
                f"start anew, or choose another one."
            )
        return
    if _is_main_process():
        checkpoints.mkdir(parents=True, exist_ok=True)
        write_json(identity, values)


def _build_trainer(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    documents: TokenisedDocuments,
    config: TrainingConfig,
    plan: StepPlan,
    checkpoints: Path,
    evaluate: Callable[[], DocumentLosses] | None,
    auxiliary_loss: AuxiliaryLoss | None,
    show_bar: bool,
) -> "AnswerTrainer":
    from hydralora.trainer import AnswerTrainer

    peft_type = getattr(getattr(model, "active_peft_config", None), "peft_type", None)
    return AnswerTrainer(
        plan=plan,
        auxiliary_loss=auxiliary_loss,
        evaluate_held_out=None if evaluate is None else lambda: evaluate().mean,
        full_logits=peft_type == "ADALORA",
        model=model,
        args=_trainer_arguments(config, plan, checkpoints, show_bar),
        train_dataset=PlannedBatches(documents, plan),
        # Trainer evaluates only when it has a data set; ours is inside `evaluate_held_out`.
        eval_dataset=None if evaluate is None else [],
        data_collator=partial(_collate_planned, pad_token_id=pad_token_id(tokenizer)),
        optimizers=(_optimizer(model, config), None),
    )


def _collate_planned(micro_batches: list[list[dict[str, Any]]], pad_token_id: int) -> Batch:
    [rows] = micro_batches
    return collate(rows, pad_token_id)


def _trainer_arguments(
    config: TrainingConfig, plan: StepPlan, checkpoints: Path, show_bar: bool
) -> "TrainingArguments":
    from transformers import TrainingArguments

    evaluates = config.eval_steps is not None
    return TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=plan.num_steps,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        gradient_checkpointing=config.gradient_checkpointing,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=math.ceil(config.warmup_ratio * plan.num_steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=config.autocast,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_steps,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=config.eval_steps,
        load_best_model_at_end=config.early_stopping_patience is not None,
        metric_for_best_model="eval_loss" if evaluates else None,
        greater_is_better=False if evaluates else None,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        disable_tqdm=not show_bar,
        report_to="none",
        seed=config.seed,
    )


def _optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW with one group of parameters for each learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            ratios = [ratio for fragment, ratio in config.learning_rate_ratios.items() if fragment in name]
            groups.setdefault(ratios[0] if ratios else 1.0, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": group, "lr": config.learning_rate * ratio} for ratio, group in groups.items()],
        weight_decay=config.weight_decay,
    )


def _callbacks(
    folder: Path,
    config: TrainingConfig,
    plan: StepPlan,
    model: Any,
    progress: Callable[[Progress], None] | None,
) -> "list[TrainerCallback]":
    from transformers import EarlyStoppingCallback

    from hydralora.callbacks import AdaLoraSchedule, CurveWriter, ProgressReporter, StopAtNonFinite

    callbacks: list[TrainerCallback] = [CurveWriter(folder / "curve.jsonl", plan), StopAtNonFinite()]
    if progress is not None:
        callbacks.append(ProgressReporter(progress, plan))
    if config.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(config.early_stopping_patience))
    if hasattr(getattr(model, "base_model", None), "update_and_allocate"):
        callbacks.append(AdaLoraSchedule())
    return callbacks


@contextmanager
def _clear_memory_errors(config: TrainingConfig) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingError(
            f"Out of memory at {config.tokens_per_step} tokens a step in {config.gradient_accumulation_steps} "
            f"micro-batches. Raise gradient_accumulation_steps (the result stays the same), lower max_length, or set "
            f"gradient_checkpointing. The last checkpoint is kept."
        ) from error


def _last_checkpoint(checkpoints: Path) -> str | None:
    from transformers.trainer_utils import get_last_checkpoint

    checkpoint = get_last_checkpoint(str(checkpoints))
    return None if checkpoint is None else str(checkpoint)


def _peft_values(model: Any) -> dict[str, Any] | None:
    config = getattr(model, "active_peft_config", None)
    return None if config is None else json.loads(json.dumps(config.to_dict(), default=_json_value))


def _json_value(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def _data_values(documents: TokenisedDocuments, plan: StepPlan) -> dict[str, Any]:
    return {
        "fingerprint": documents.fingerprint(),
        "documents": len(documents),
        "template": documents.template,
        "max_length": documents.max_length,
        "prompts_cut": documents.prompts_cut,
        "answers_cut": documents.answers_cut,
        "without_answer": documents.without_answer,
        "padding_share": round(plan.padding_share, 4),
    }


def _held_out_values(before: DocumentLosses | None, after: DocumentLosses | None) -> dict[str, Any] | None:
    if before is None or after is None:
        return None
    return {
        "before": {"all": before.mean, **before.by_source()},
        "after": {"all": after.mean, **after.by_source()},
    }


def _num_processes() -> int:
    """Set by torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"
