"""The settings of a run as arguments of transformers' `Trainer`."""

from pathlib import Path
from typing import Any, cast

import torch
from transformers import TrainingArguments

from hydralora.data import StepPlan
from hydralora.training.config import TrainingConfig


def trainer_arguments(
    config: TrainingConfig, plan: StepPlan, checkpoints: Path, *, show_bar: bool, device: torch.device
) -> TrainingArguments:
    """The arguments of a `Trainer` that writes its checkpoints into a folder, for a model on a device."""
    # transformers 5 renames this argument and warns about the old name.
    renamed = hasattr(TrainingArguments, "activation_checkpointing")
    checkpointing: dict[str, Any] = {
        "activation_checkpointing" if renamed else "gradient_checkpointing": config.gradient_checkpointing
    }
    evaluates = config.eval_steps is not None
    stops_early = config.early_stopping_patience is not None
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=plan.num_steps,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        **checkpointing,
        learning_rate=config.learning_rate,
        max_grad_norm=config.max_grad_norm,
        bf16=config.autocast,
        # This also lets processes without GPUs form a group. With fsdp, the model is on the CPU until it is split.
        use_cpu=device.type == "cpu" and not (config.fsdp and torch.cuda.is_available()),
        fsdp=cast(Any, config.fsdp or None),  # transformers still declares it as a string
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        # Early stopping keeps the best checkpoint, so each evaluation needs one.
        save_steps=config.eval_steps if stops_early and config.eval_steps else config.save_steps,
        save_total_limit=2,  # with only one, a run that is killed while it writes the next would have none
        eval_strategy="steps" if evaluates else "no",
        eval_steps=config.eval_steps,
        load_best_model_at_end=stops_early,
        metric_for_best_model="eval_loss" if evaluates else None,
        greater_is_better=False if evaluates else None,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        # A blocking copy would wait for all earlier work.
        accelerator_config={"non_blocking": torch.cuda.is_available()},
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,  # no buffer changes while a language model trains
        disable_tqdm=not show_bar,
        report_to=[name for name in config.report_to if name != "tensorboard"],  # it would write into a checkpoint
        project="hydralora",
        run_name=checkpoints.parent.name,
        seed=config.seed,
    )
    if arguments.n_gpu > 1:
        # Otherwise Trainer copies the model to every visible GPU for each micro-batch (DataParallel) and scales the
        # loss by their number. Use torchrun for several GPUs.
        arguments._n_gpu = 1
    return arguments
