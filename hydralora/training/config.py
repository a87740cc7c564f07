"""What decides a training run, what it reports while it runs, and what it returns."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from hydralora.evaluation import DocumentLosses

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class TrainingError(RuntimeError):
    """A run that stopped, with the reason and the way out. Its last good checkpoint is kept."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides a run beside its data, its base model and its PEFT configuration.

    Names are those of transformers' `TrainingArguments` where it has one.

    Attributes:
        max_steps, max_tokens, num_train_epochs: the budget; exactly one is given.
        learning_rate: its peak, after the warm-up.
        learning_rate_ratios: fragment of a parameter's name -> factor on its rate, `{"lora_B": 16.0}` for LoRA+
            (arXiv 2402.12354).
        lr_scheduler_type: how the rate falls after the warm-up.
        warmup_ratio: share of the steps in which the rate rises.
        tokens_per_step: least tokens of an optimizer step, without padding, over all processes.
        gradient_accumulation_steps: micro-batches of a step in each process. More of them need less memory and, as
            documents are sorted into them by length, less padding.
        packing: lay the documents of a micro-batch end to end in one row, without padding. "auto": on GPUs that have an
            attention kernel for it, except for methods with virtual tokens. The steps hold the same documents either
            way.
        fused_kernels: norms, gated activations and rotary positions of the base model as one kernel each, by
            liger-kernel (`pip install hydralora[fast]`). "auto": on GPUs where it is installed.
        gradient_checkpointing: compute activations again in the backward pass, for less memory.
        autocast: bfloat16 autocast, by default on GPUs, where float32 adapters would else multiply in float32.
        balance_weight, cluster_weight: of the losses on gates in `hydralora.gates.losses`.
        save_steps: steps from checkpoint to checkpoint.
        eval_steps: steps from held-out loss to held-out loss.
        early_stopping_patience: evaluations without a better held-out loss before the run stops; the best checkpoint
            becomes the result.
        fsdp: split the base model and what is trained between the processes, for bases that do not fit one GPU.
        report_to: trackers, by transformers' names ("trackio", "tensorboard", "mlflow"); TensorBoard's files go into
            the folder of the run, the others where they are told by their own settings.
        seed: of initialisation, order and dropout.
    """

    max_steps: int | None = None
    max_tokens: int | None = None
    num_train_epochs: float | None = None
    learning_rate: float = 1e-3
    learning_rate_ratios: Mapping[str, float] = dataclasses.field(default_factory=dict)
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    tokens_per_step: int = 4096
    gradient_accumulation_steps: int = 4
    packing: bool | Literal["auto"] = "auto"
    fused_kernels: bool | Literal["auto"] = "auto"
    gradient_checkpointing: bool = False
    autocast: bool = dataclasses.field(default_factory=torch.cuda.is_available)
    balance_weight: float = 0.0
    cluster_weight: float = 0.0
    save_steps: int = 50
    eval_steps: int | None = None
    early_stopping_patience: int | None = None
    fsdp: bool = False
    report_to: Sequence[str] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("packing", "fused_kernels"):
            if getattr(self, name) not in (True, False, "auto"):
                raise ValueError(f'Expected {name} true, false or "auto", got {getattr(self, name)!r}')
        if (self.max_steps, self.max_tokens, self.num_train_epochs).count(None) != 2:
            raise ValueError(
                f"Expected exactly one of max_steps, max_tokens, num_train_epochs, got {self.max_steps}, "
                f"{self.max_tokens}, {self.num_train_epochs}"
            )
        for name in ("max_steps", "max_tokens", "tokens_per_step", "gradient_accumulation_steps", "save_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Expected {name} of at least 1, got {value}")
        for name in ("num_train_epochs", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"Expected {name} of more than 0, got {value}")
        wrong = {name: ratio for name, ratio in self.learning_rate_ratios.items() if not 0 < ratio < math.inf}
        if wrong:
            raise ValueError(f"Expected learning_rate_ratios of more than 0, got {wrong}")
        if self.early_stopping_patience is not None and self.eval_steps is None:
            raise ValueError("early_stopping_patience needs eval_steps: how often to look at the held-out loss")
        if self.lr_scheduler_type not in ("cosine", "linear", "constant"):
            raise ValueError(f"Expected lr_scheduler_type cosine, linear or constant, got {self.lr_scheduler_type!r}")


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
