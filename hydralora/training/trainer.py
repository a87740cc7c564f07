"""transformers' Trainer with an answer-only loss, batches in planned order, and checkpoints marked as complete."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PrinterCallback

from hydralora.data import Batch, PlannedBatches, StepPlan, TokenisedDocuments, collate, collate_packed
from hydralora.data.row_sizes import RowSizes, fill_row
from hydralora.evaluation import DocumentLosses
from hydralora.evaluation.answer_loss import answer_loss, logits_can_be_chunked, model_inputs
from hydralora.training import adalora
from hydralora.training.arguments import trainer_arguments
from hydralora.training.config import TrainingConfig, TrainingError
from hydralora.training.outputs.checkpoints import COMPLETE, is_disk_full, save_model
from hydralora.training.step.graphs import StepGraphs
from hydralora.training.step.late_log import LateTrainer
from hydralora.training.step.module_walks import fewer_walks
from hydralora.training.step.offloading import Offloaded
from hydralora.training.step.optimiser import adamw, clip_split, schedule
from hydralora.training.step.split_model import run_in_autocast, split_precision, whole_weights


class AnswerTrainer(LateTrainer):
    """`Trainer` over the micro-batches of a `StepPlan`.

    Args:
        packed: Whether the documents of a micro-batch lie end to end in one row.
        graphs_refusal: Why steps are not recorded as graphs (see `graphs`); None if they are.
        evaluate: Returns the held-out losses; called every `config.eval_steps` steps.

    Attributes:
        seconds_waiting: Time in which the run waited for batches, in seconds.
        sizes: Sizes to which rows are filled up for graphs, or None.
        graphs: Graphs of micro-batches; None before the first micro-batch, and if the run records none.
    """

    def __init__(
        self,
        model: Any,
        documents: TokenisedDocuments,
        plan: StepPlan,
        config: TrainingConfig,
        *,
        pad_token_id: int,
        packed: bool,
        graphs_refusal: str | None,
        evaluate: Callable[[], DocumentLosses] | None,
        checkpoints: Path,
        show_bar: bool,
    ) -> None:
        self.sizes = None if graphs_refusal is not None else _row_sizes(plan, documents)
        super().__init__(
            model=model,
            args=trainer_arguments(
                config, plan, checkpoints, show_bar=show_bar, device=next(model.parameters()).device
            ),
            train_dataset=PlannedBatches(
                documents,
                plan,
                partial(_collated, pad_token_id=None if packed else pad_token_id, sizes=self.sizes),
                processes=plan.per_step // config.gradient_accumulation_steps,
            ),
            # Trainer evaluates only if it has a data set; `evaluate` holds the real one.
            eval_dataset=None if evaluate is None else [],
            data_collator=itemgetter(0),  # an item is a whole micro-batch
        )
        if config.fsdp and not self.is_fsdp_enabled:
            raise TrainingError(
                "fsdp splits a model between GPUs, and there are none: accelerate would give each process the whole "
                "model. Set fsdp: false."
            )
        if config.fsdp:
            policy = split_precision(config, trains_adapter=hasattr(model, "peft_config"))
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
            if config.autocast and policy is None:
                run_in_autocast(model, self.accelerator.device.type)
        self.remove_callback(PrinterCallback)
        self._config = config
        self._checkpoints = checkpoints
        self._evaluate_held_out = evaluate
        self._is_adalora = getattr(getattr(model, "active_peft_config", None), "peft_type", None) == "ADALORA"
        self.seconds_waiting = 0.0
        self._trained: list[nn.Parameter] = []
        self._while_training = ExitStack()
        self._loss_is_chunked: bool | None = None
        self._gates: Mapping[str, Tensor] = {}
        self._offloaded = Offloaded(model) if config.activation_offloading else nullcontext()
        self.graphs: StepGraphs | None = None
        # We divide the loss by the answer tokens of the whole step. So Trainer must count them and not divide again.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = True

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer calls this before accelerate splits the model between processes (with fsdp)."""
        if self.optimizer is None:
            self.optimizer = adamw(model or cast(nn.Module, self.model), self._config)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Trainer calls this after `create_optimizer`."""
        if self.lr_scheduler is None:
            self.lr_scheduler = schedule(optimizer or self.create_optimizer(), self._config, num_training_steps)
        return self.lr_scheduler

    def get_batch_samples(self, epoch_iterator: Iterator[Any], *arguments: Any) -> Any:
        """The micro-batches of a step; the time to get them counts as waiting for data."""
        return super().get_batch_samples(self._timed(epoch_iterator), *arguments)

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            started = time.monotonic()
            batch = next(batches, None)
            self.seconds_waiting += time.monotonic() - started
            if batch is None:
                return
            yield batch

    def train(self, *arguments: Any, **options: Any) -> Any:
        """`Trainer.train`; changes to the model that only training needs are undone at its end."""
        with ExitStack() as self._while_training:
            return super().train(*arguments, **options)

    def training_step(self, model: nn.Module, *arguments: Any, **options: Any) -> Tensor:
        """Forward and backward pass of a micro-batch, with gates recorded in both if a loss needs them.

        Gradient checkpointing runs layers again during the backward pass, and they must use the same path as before.
        """
        if not self._trained:
            model.train()
            self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            if self.sizes is not None:
                drops = any(isinstance(module, nn.Dropout) and module.p for module in model.modules())
                required = self._config.cuda_graphs is True
                self.graphs = StepGraphs(self._trained, required=required, has_dropout=drops)
                self._while_training.callback(self.graphs.release)
            keeps = self.graphs
            self._while_training.enter_context(
                fewer_walks(model, self._trained, lambda: keeps is not None and keeps.keeps_gradients)
            )
        micro_batch = partial(super().training_step, model)
        if self.graphs is not None:
            return self.graphs.run(micro_batch, *arguments, **options)
        with self._recorded_gates() as self._gates:
            loss: Tensor = micro_batch(*arguments, **options)
        return loss

    def graph_values(self) -> dict[str, Any] | None:
        """The use of graphs, for the record; None if they were not tried."""
        if self.graphs is None or self.sizes is None:
            return None
        return {**dataclasses.asdict(self.graphs.use), "filled_share": self.sizes.padding_share}

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip the gradients of the trained parameters, which are collected once."""
        if self._config.fsdp:
            return clip_split(self._trained, self.args.max_grad_norm)
        return self.accelerator.clip_grad_norm_(self._trained, self.args.max_grad_norm)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Answer loss of a micro-batch, scaled so that a step's gradients sum to those of its mean token loss."""
        assert num_items_in_batch is not None  # every batch has labels
        with self._offloaded:
            loss = self._answer_loss(model, inputs, num_items_in_batch)
        if self._gates:
            routing = self._routing_loss(self._gates, inputs, inputs.get("cluster"))
            loss = loss + routing / self.current_gradient_accumulation_steps
        # DistributedDataParallel averages gradients over processes, but we divided by the tokens of all processes.
        return loss * self.accelerator.num_processes

    def _answer_loss(self, model: nn.Module, inputs: Batch, num_items: Tensor | int) -> Tensor:
        if not self._is_adalora:
            return answer_loss(model, inputs, chunked=self._chunks_loss(model, inputs)) / num_items
        # AdaLoRA adds its regulariser to the model's own loss, so the model must compute it.
        arguments = model_inputs(model, inputs) | {"labels": inputs["labels"]}
        return model(**arguments, num_items_in_batch=num_items, use_cache=False).loss

    def _chunks_loss(self, model: nn.Module, inputs: Batch) -> bool:
        """Whether to chunk the loss: only on GPUs, where logits need much memory; decided at the first batch."""
        if self._loss_is_chunked is None:
            self._loss_is_chunked = inputs["input_ids"].is_cuda and logits_can_be_chunked(model, inputs)
        return self._loss_is_chunked

    def _recorded_gates(self) -> AbstractContextManager[Mapping[str, Tensor]]:
        if self._config.balance_weight == self._config.cluster_weight == 0:
            return nullcontext({})
        from hydralora.gates.recording import record_gates

        return record_gates(self.accelerator.unwrap_model(self.model))

    def _routing_loss(self, gates: Mapping[str, Tensor], inputs: Batch, clusters: Tensor | None) -> Tensor:
        from hydralora.gates.losses import balance_loss, cluster_loss

        mask = inputs.get("attention_mask")
        if mask is None:  # packed: these losses treat each token as a separate document
            gates = {name: layer.transpose(0, 1) for name, layer in gates.items()}
        loss = self._config.balance_weight * balance_loss(gates, mask)
        if self._config.cluster_weight == 0:
            return loss
        if clusters is None:
            raise TrainingError("cluster_weight needs documents with a cluster; they have none")
        return loss + self._config.cluster_weight * cluster_loss(gates, clusters, mask)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Held-out answer loss, in the form that Trainer's callbacks read."""
        assert self._evaluate_held_out is not None
        metrics = {"eval_loss": self._evaluate_held_out().mean}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def floating_point_ops(self, inputs: dict[str, Tensor | Any]) -> int:
        """Return 0: counting would walk through all parameters for each micro-batch."""
        return 0

    def last_checkpoint(self) -> str | None:
        """Folder of the newest complete checkpoint, or None."""
        whole = [marker.parent for marker in self._checkpoints.glob(f"checkpoint-*/{COMPLETE}")]
        return max(map(str, whole), key=step_of) if whole else None

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = self._checkpoints / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                if self._is_adalora:
                    adalora.save_state(self.model, folder)
                (folder / COMPLETE).touch()
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            if not is_disk_full(error):
                raise
            raise TrainingError(
                f"No disk space for a checkpoint at step {self.state.global_step} in {self._checkpoints}. Earlier "
                f"checkpoints are complete: make room and run again to continue from the last one."
            ) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._is_adalora:
            adalora.load_state(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """`Trainer.save_model`, without putting the base model together for each checkpoint (with fsdp)."""
        if self._config.fsdp:
            self._save(output_dir, self.whole_state_dict())
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save only the model: Trainer would add a pickle of its arguments."""
        if self.args.should_save:
            save_model(self.model, Path(str(output_dir)), state_dict)

    def whole_state_dict(self) -> dict[str, Tensor] | None:
        """With fsdp, the adapter's whole weights, or all weights if there is none; else None."""
        if not self._config.fsdp:
            return None
        model: Any = self.model
        return whole_weights(model) if hasattr(model, "peft_config") else self.accelerator.get_state_dict(model)


def step_of(checkpoint: str | None) -> int:
    """Number of steps that were done when a checkpoint was written; 0 for None."""
    return 0 if checkpoint is None else int(Path(checkpoint).name.split("-")[1])


def _collated(rows: Sequence[dict[str, Any]], pad_token_id: int | None, sizes: RowSizes | None) -> Batch:
    """A micro-batch: padded; or, if `pad_token_id` is None, packed and filled up to one of the sizes."""
    if pad_token_id is not None:
        return collate(rows, pad_token_id)
    return collate_packed(rows) if sizes is None else fill_row(collate_packed(rows), sizes)


def _row_sizes(plan: StepPlan, documents: TokenisedDocuments) -> RowSizes:
    answers = documents.lengths - np.asarray(documents.column("answer_start"))
    return RowSizes.of(plan.micro_batches, documents.lengths, answers)
