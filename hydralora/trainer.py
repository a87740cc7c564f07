"""transformers' Trainer with an answer-only loss, batches in planned order, and checkpoints that are whole or absent."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from hydralora.answer_loss import answer_loss
from hydralora.batching import StepPlan
from hydralora.training import AuxiliaryLoss, TrainingError


class AnswerTrainer(Trainer):
    """`Trainer` over the micro-batches of a `StepPlan`.

    Args:
        plan: of the run; the data set's items are its micro-batches.
        auxiliary_loss: added to the answer loss of each micro-batch (its mean over a step's micro-batches counts).
        evaluate_held_out: gives the held-out loss; called every `eval_steps`.
        full_logits: let the model compute its own loss over all positions, for methods that add to it (AdaLoRA).
    """

    def __init__(
        self,
        *,
        plan: StepPlan,
        auxiliary_loss: AuxiliaryLoss | None = None,
        evaluate_held_out: Callable[[], float] | None = None,
        full_logits: bool = False,
        **trainer_arguments: Any,
    ) -> None:
        super().__init__(**trainer_arguments)
        self.plan = plan
        self.auxiliary_loss = auxiliary_loss
        self.evaluate_held_out = evaluate_held_out
        self.full_logits = full_logits
        # Our loss is divided by the answer tokens of the whole step, so Trainer must count them and not divide again.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Answer loss of a micro-batch, scaled so that a step's gradients sum to those of its mean token loss."""
        if num_items_in_batch is None:
            raise ValueError("AnswerTrainer trains; held-out losses come from hydralora.evaluation")
        if self.full_logits:
            loss = model(**inputs, num_items_in_batch=num_items_in_batch, use_cache=False).loss
        else:
            loss = answer_loss(model, inputs) / num_items_in_batch
        if self.auxiliary_loss is not None:
            loss = loss + self.auxiliary_loss(model, inputs) / self.current_gradient_accumulation_steps
        # DistributedDataParallel averages gradients over processes, while the token count is already that of all.
        return loss * self.accelerator.num_processes

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Held-out answer loss, in the form that Trainer's callbacks read."""
        assert self.evaluate_held_out is not None
        metrics = {"eval_loss": self.evaluate_held_out()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def floating_point_ops(self, inputs: dict[str, Tensor | Any]) -> int:
        """Not counted: walking all parameters for each micro-batch takes longer than a small model's layer."""
        return 0

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write `checkpoint-<step>` under another name first; a killed or failed write leaves the last good one."""
        root = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        partial = root / "partial"
        if self.args.should_save:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.args.output_dir = str(partial)
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            if _is_disk_full(error):
                raise TrainingError(
                    f"No disk space for a checkpoint at step {self.state.global_step} in {root}. Earlier checkpoints "
                    f"are whole: make room and run again to continue from the last one."
                ) from error
            raise
        finally:
            self.args.output_dir = str(root)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            shutil.rmtree(root / name, ignore_errors=True)
            os.rename(partial / name, root / name)
            self._drop_old_checkpoints(root)
        self.accelerator.wait_for_everyone()

    def _drop_old_checkpoints(self, root: Path) -> None:
        keep = {f"checkpoint-{self.state.global_step}", f"checkpoint-{self.state.best_global_step}"}
        for folder in root.glob("checkpoint-*"):
            if folder.name not in keep:
                shutil.rmtree(folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The model alone: Trainer would add a pickle of its arguments."""
        if self.args.should_save:
            options = {"save_embedding_layers": False} if hasattr(self.model, "peft_config") else {}
            self.model.save_pretrained(output_dir, state_dict=state_dict, **options)


def _is_disk_full(error: BaseException) -> bool:
    """Whether an error means a full disk; torch and safetensors hide the errno in texts of their own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error)
    return "No space left" in text or "os error 28" in text or "PytorchStreamWriter failed" in text
