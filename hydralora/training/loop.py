"""Trains any PEFT method, or the whole model, on documents: one loop, with the same data and reports for each method.

The loop is transformers' `Trainer`. We add only the loss on answer tokens (see `answer_loss`), the planned order of
batches (see `batching`), and checkpoints that are marked when they are complete (see `trainer`).

`torchrun --nproc-per-node 2 -m hydralora.training --config training.json` trains on several processes.
"""

import dataclasses
import importlib.util
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hydralora.base_model import remembered_lower_layers, weights_fingerprint
from hydralora.data import TokenisedDocuments, mixed_order, pad_token_id, source_shares
from hydralora.data.batching import StepPlan, plan_steps
from hydralora.evaluation import evaluate_documents
from hydralora.training.config import QUIET, Progress, RunOptions, TrainingConfig, TrainingError, TrainingResult
from hydralora.training.outputs.identity import (
    check_base_unchanged,
    claim,
    is_first_process,
    num_processes,
    run_identity,
)
from hydralora.training.outputs.record import (
    environment,
    held_out_values,
    parameter_values,
    peft_values,
    speed_values,
    write_result,
)
from hydralora.training.step.graphs import graphs_refusal
from hydralora.training.step.kernels import kernels_in, wants_kernels
from hydralora.training.step.offloading import check_can_offload
from hydralora.training.step.packing import decide_packing
from hydralora.training.step.probe import check_is_causal

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback


def plan_run(
    documents: TokenisedDocuments, config: TrainingConfig, *, num_processes: int = 1, packed: bool = False
) -> StepPlan:
    """Plan the batches of a run. Schedules such as AdaLoRA's need the plan's `num_steps`.

    Raises:
        TrainingError: If the mixing does not fit the sources of the documents.
    """
    return plan_steps(
        documents.lengths,
        tokens_per_step=config.tokens_per_step,
        micro_batches_per_step=config.gradient_accumulation_steps * num_processes,
        max_steps=config.max_steps,
        max_tokens=config.max_tokens,
        num_epochs=config.num_train_epochs,
        seed=config.order_seed,
        packed=packed,
        order=_order(documents, config) if config.is_mixed else None,
    )


def _order(documents: TokenisedDocuments, config: TrainingConfig) -> Iterator[int]:
    sources = documents.column("source")
    try:
        shares = source_shares(
            Counter(sources),
            temperature=config.mixing_temperature,
            weights=config.mixing_weights,
            cap=config.mixing_cap,
        )
    except ValueError as error:
        raise TrainingError(str(error)) from None
    return mixed_order(sources, shares, config.order_seed)


def train(
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    documents: TokenisedDocuments,
    folder: Path,
    config: TrainingConfig,
    *,
    peft_config: "PeftConfig | None" = None,
    options: RunOptions = QUIET,
) -> TrainingResult:
    """Train an adapter (or the whole model) and write it, its curve, its record and its card into `folder`.

    If a run was killed, call it again with the same arguments. It continues from its last checkpoint in `folder` and
    gives the same final weights (on CPU the same bits). With another number of processes it continues too, if
    `gradient_accumulation_steps` times that number stays the same; then the weights differ by rounding.

    Args:
        model: A base model, which `peft_config` changes in place. Without `peft_config`, a model that already has an
            adapter continues with it, and a base model is trained fully.
        folder: Folder for the results and, during the run, the checkpoints.
        peft_config: PEFT config of a new adapter, or None.
        options: What to measure and report: held-out loss, progress, energy.

    Returns:
        The trained model, its record, and its held-out losses.

    Raises:
        TrainingError: If a loss is not finite, memory or disk space runs out, the config does not fit the model or the
            machine, or the folder belongs to another run.
        ModuleNotFoundError: If `options.measure_energy` is set and codecarbon is not installed.
    """
    from transformers import set_seed

    from hydralora.training.outputs.energy import EnergyMeter
    from hydralora.training.step.memory import FirstStepMemory
    from hydralora.training.trainer import AnswerTrainer, step_of

    held_out = options.held_out
    _check(model, peft_config, config, held_out)
    set_seed(config.seed)
    fuses = wants_kernels(model, config)
    packing = decide_packing(model, peft_config, config)
    no_graphs = graphs_refusal(model, peft_config, config, packed=packing.packed, processes=num_processes())
    plan = plan_run(documents, config, num_processes=num_processes(), packed=packing.packed)
    base_weights = weights_fingerprint(model)
    model = _prepare(model, peft_config)
    run = run_identity(model, documents, config, base_weights, peft_values(getattr(model, "active_peft_config", None)))
    checkpoints = folder / "checkpoints"
    claim(checkpoints, run)
    pad = pad_token_id(tokenizer)
    evaluate = None if held_out is None else partial(evaluate_documents, model, held_out, pad_token_id=pad)
    trainer = AnswerTrainer(
        model,
        documents,
        plan,
        config,
        pad_token_id=pad,
        packed=packing.packed,
        graphs_refusal=no_graphs,
        evaluate=evaluate,
        checkpoints=checkpoints,
        show_bar=options.show_bar,
    )
    memory = FirstStepMemory(
        plan,
        documents.lengths,
        packed=packing.packed,
        fused=fuses,
        checkpointing=config.gradient_checkpointing,
        offloading=config.activation_offloading,
    )
    for callback in [memory, *_callbacks(folder, config, plan, model, options.progress)]:
        trainer.add_callback(callback)
    # With fsdp the model is still on the CPU here, where the loss of such a large model would take hours.
    before = evaluate() if evaluate and not config.fsdp else None
    checkpoint = trainer.last_checkpoint()
    started, cpu_started = time.monotonic(), time.process_time()
    with (
        packing.attention_of(model),
        kernels_in(model, fuses) as fused,
        remembered_lower_layers(model) as remembered,
        clear_errors(config, folder),
        EnergyMeter(enabled=options.measure_energy) as energy,
    ):
        trainer.train(resume_from_checkpoint=checkpoint)
    state_dict = trainer.whole_state_dict()
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
    after = evaluate() if evaluate else None
    if peft_config is not None:
        check_base_unchanged(model, base_weights)
    steps = trainer.state.global_step
    record = {
        **run,
        "parameters": parameter_values(model),
        "steps": steps,
        "tokens": int(plan.tokens_of_step[:steps].sum()),
        "padding_share": round(plan.padding_share, 4),
        "packing": dataclasses.asdict(packing),
        "fused_modules": fused,
        "cuda_graphs": trainer.graph_values() or {"graphs": 0, "reason": no_graphs},
        "remembered_batches": remembered.batches,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        **speed_values(plan, range(step_of(checkpoint), steps), seconds, trainer.seconds_waiting),
        "memory": None if memory.result is None else dataclasses.asdict(memory.result),
        "energy": None if energy.use is None else dataclasses.asdict(energy.use),
        "held_out": held_out_values(before, after),
        "environment": environment(),
    }
    if trainer.is_world_process_zero():
        with clear_errors(config, folder):
            write_result(model, tokenizer, documents, folder, record, state_dict)
        shutil.rmtree(checkpoints)
    trainer.accelerator.wait_for_everyone()
    return TrainingResult(model, folder, record, before, after)


def _prepare(model: Any, peft_config: "PeftConfig | None") -> Any:
    """The model with its new adapter in float32; without an adapter, with all weights trainable in float32.

    bfloat16 weights cannot be trained directly: a step is smaller than the distance between neighbouring numbers.
    """
    from peft import PeftModel, get_peft_model

    if peft_config is None and getattr(model, "is_quantized", False) and not isinstance(model, PeftModel):
        raise TrainingError("A 4-bit base model cannot be trained whole; choose an adapter, or load it unquantised")
    if peft_config is None:
        return model if isinstance(model, PeftModel) else model.float().requires_grad_(True)
    if isinstance(model, PeftModel):
        raise TrainingError("Expected a base model for a new adapter, got a model that already has one")
    return get_peft_model(model, peft_config)


def _check(
    model: Any, peft_config: "PeftConfig | None", config: TrainingConfig, held_out: TokenisedDocuments | None
) -> None:
    """Refuse a config that does not fit the model, the documents or the machine."""
    if config.eval_steps is not None and held_out is None:
        raise TrainingError("eval_steps needs held_out documents; there are none")
    for name in config.report_to:
        if importlib.util.find_spec(name) is None:
            raise TrainingError(f"report_to names {name!r}, which is not installed: pip install {name}")
    if config.fsdp:
        _check_can_split(model, peft_config)
    else:
        check_is_causal(model, autocast=config.autocast)  # with fsdp a large model is on the CPU here
    check_can_offload(model, config)


def _check_can_split(model: Any, peft_config: "PeftConfig | None") -> None:
    if num_processes() == 1:
        raise TrainingError("fsdp splits a model between processes, and this is the only one: start it with torchrun")
    if getattr(model, "is_loaded_in_4bit", False):
        raise TrainingError("fsdp does not split a 4-bit base model; give each process a whole one (fsdp: false)")
    if peft_config is not None and peft_config.peft_type == "ADALORA":
        raise TrainingError("fsdp does not work with AdaLoRA, which needs whole matrices to prune ranks")


def _callbacks(
    folder: Path,
    config: TrainingConfig,
    plan: StepPlan,
    model: Any,
    progress: Callable[[Progress], None] | None,
) -> "list[TrainerCallback]":
    from transformers import EarlyStoppingCallback

    from hydralora.training.callbacks import AdaLoraSchedule, CurveWriter, ProgressReporter, StopAtNonFinite

    callbacks: list[TrainerCallback] = [CurveWriter(folder / "curve.jsonl", plan), StopAtNonFinite()]
    if progress is not None:
        callbacks.append(ProgressReporter(progress, plan))
    if config.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(config.early_stopping_patience))
    if hasattr(getattr(model, "base_model", None), "update_and_allocate"):
        callbacks.append(AdaLoraSchedule())
    if "tensorboard" in config.report_to and is_first_process():
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations.integration_utils import TensorBoardCallback

        callbacks.append(TensorBoardCallback(SummaryWriter(str(folder / "tensorboard"))))
    return callbacks


@contextmanager
def clear_errors(config: TrainingConfig, folder: Path) -> Iterator[None]:
    """Turn errors of memory and disk into a `TrainingError` that tells what to do."""
    from hydralora.training.outputs.checkpoints import is_disk_full

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        further = "use more GPUs" if config.fsdp else "split the base model between GPUs (fsdp)"
        last_advice = further if config.gradient_checkpointing else "switch gradient_checkpointing on"
        raise TrainingError(
            f"Out of memory at {config.tokens_per_step} tokens a step in {config.gradient_accumulation_steps} "
            f"micro-batches. Raise gradient_accumulation_steps (the result stays the same), lower max_length, or "
            f"{last_advice}. The last checkpoint is kept."
        ) from error
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise TrainingError(f"No disk space in {folder}. Make room and run again: the run continues.") from error
