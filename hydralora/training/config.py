"""The configuration of a training run, its options, its progress reports, its result and its error.

This module imports only the standard library: the pipelines read fields, defaults and limits from it without torch.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from hydralora.data import TokenisedDocuments
    from hydralora.evaluation import DocumentLosses


class TrainingError(RuntimeError):
    """A run stopped; the message tells why and what to do. Its last good checkpoint is kept."""


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _is_within(number: Any, limits: Mapping[str, float], is_whole: bool) -> bool:
    if isinstance(number, bool) or not isinstance(number, Integral if is_whole else Real):
        return False
    compare = {"ge": operator.ge, "gt": operator.gt, "le": operator.le}
    return math.isfinite(number) and all(compare[name](number, limit) for name, limit in limits.items())


def _words(limits: Mapping[str, float]) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most"}
    return " and ".join(f"{words[name]} {limit}" for name, limit in limits.items())


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """All settings of a run except its data, its base model and its PEFT configuration.

    Names are those of transformers' `TrainingArguments` if it has the setting.

    Attributes:
        max_steps: Budget in optimizer steps. Give exactly one of the three budgets.
        max_tokens: Budget in tokens, without padding.
        num_train_epochs: Budget in passes over the documents; may be a fraction.
        learning_rate: Peak learning rate, reached after the warm-up.
        learning_rate_ratios: Fragment of a parameter's name -> factor on its learning rate, for example
            `{"lora_B": 16.0}` for LoRA+ (arXiv 2402.12354).
        lr_scheduler_type: Form of the decay after the warm-up.
        warmup_ratio: Share of the steps in which the learning rate rises.
        weight_decay: Weight decay of AdamW.
        max_grad_norm: Norm to which gradients are clipped; 0 for no clipping.
        tokens_per_step: Smallest number of tokens in an optimizer step, without padding, over all processes.
        gradient_accumulation_steps: Micro-batches per step in each process. More of them need less memory. They also
            need less padding, because documents are sorted into them by length.
        packing: Whether to lay the documents of a micro-batch end to end in one row, without padding. "auto" packs on
            GPUs with an attention kernel for it, except for methods with virtual tokens. Steps hold the same documents
            in both cases.
        fused_kernels: Whether liger-kernel (`pip install hydralora[fast]`) runs norms, gated activations and rotary
            positions of the base model as one kernel each. "auto" uses it on GPUs if it is installed.
        cuda_graphs: Whether to record the forward and backward pass of a packed row as a CUDA graph and replay it. This
            removes the time that Python needs, which limits small models. "auto" tries it on one GPU if the GPU waits
            for Python, and keeps it if it is faster and gives the same gradients.
        gradient_checkpointing: Whether to compute activations again in the backward pass, to save memory.
        activation_offloading: Whether to keep activations in the machine's memory between forward and backward pass;
            needs a GPU. Use it with `gradient_checkpointing`: then only the layers' inputs are copied.
        autocast: Whether to use bfloat16 autocast. The default is True with a GPU, because float32 adapters would
            otherwise multiply in float32.
        balance_weight: Weight of `hydralora.gates.losses.balance_loss`.
        cluster_weight: Weight of `hydralora.gates.losses.cluster_loss`.
        save_steps: Steps between two checkpoints.
        eval_steps: Steps between two evaluations of the held-out loss; None for no evaluation during the run.
        early_stopping_patience: Number of evaluations without a better held-out loss after which the run stops. The
            best checkpoint becomes the result. None for no early stopping.
        fsdp: Whether to split the base model and the trained parameters between the processes. This is slower than a
            whole model in each: use it for base models that do not fit on one GPU, and with `gradient_checkpointing`,
            because without it activations take most of the memory.
        mixing_temperature: Documents are drawn from a source in proportion to its size ** (1 / temperature).
        mixing_weights: Source -> factor on its share; 0 leaves the source out. See `hydralora.data.mixing`.
        mixing_cap: Largest share of a source among the documents read.
        report_to: Trackers by transformers' names ("trackio", "tensorboard", "mlflow"). TensorBoard writes into the
            folder of the run; the others follow their own settings.
        seed: Seed of initialisation, document order and dropout.
        data_seed: Seed of the document order, if not `seed`: runs with the same one read the same documents.

    Raises:
        ValueError: If a value is not allowed, or not exactly one budget is given.
    """

    max_steps: int | None = dataclasses.field(default=None, metadata={"ge": 1})
    max_tokens: int | None = dataclasses.field(default=None, metadata={"ge": 1})
    num_train_epochs: float | None = dataclasses.field(default=None, metadata={"gt": 0})
    learning_rate: float = dataclasses.field(default=1e-3, metadata={"gt": 0})
    learning_rate_ratios: Mapping[str, float] = dataclasses.field(default_factory=dict, metadata={"gt": 0})
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = dataclasses.field(default=0.05, metadata={"ge": 0, "le": 1})
    weight_decay: float = dataclasses.field(default=0.0, metadata={"ge": 0})
    max_grad_norm: float = dataclasses.field(default=1.0, metadata={"ge": 0})
    tokens_per_step: int = dataclasses.field(default=4096, metadata={"ge": 1})
    gradient_accumulation_steps: int = dataclasses.field(default=4, metadata={"ge": 1})
    packing: bool | Literal["auto"] = "auto"
    fused_kernels: bool | Literal["auto"] = "auto"
    cuda_graphs: bool | Literal["auto"] = "auto"
    gradient_checkpointing: bool = False
    activation_offloading: bool = False
    autocast: bool = dataclasses.field(default_factory=_has_gpu)
    balance_weight: float = dataclasses.field(default=0.0, metadata={"ge": 0})
    cluster_weight: float = dataclasses.field(default=0.0, metadata={"ge": 0})
    save_steps: int = dataclasses.field(default=50, metadata={"ge": 1})
    eval_steps: int | None = dataclasses.field(default=None, metadata={"ge": 1})
    early_stopping_patience: int | None = dataclasses.field(default=None, metadata={"ge": 1})
    fsdp: bool = False
    mixing_temperature: float = dataclasses.field(default=1.0, metadata={"gt": 0})
    mixing_weights: Mapping[str, float] = dataclasses.field(default_factory=dict, metadata={"ge": 0})
    mixing_cap: float = dataclasses.field(default=1.0, metadata={"gt": 0, "le": 1})
    report_to: Sequence[str] = ()
    seed: int = dataclasses.field(default=0, metadata={"ge": 0, "le": 2**32 - 1})
    data_seed: int | None = dataclasses.field(default=None, metadata={"ge": 0, "le": 2**32 - 1})

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, is_whole = getattr(self, field.name), int in (field.type, *get_args(field.type))
            for number in value.values() if isinstance(value, Mapping) else [value]:
                if field.metadata and number is not None and not _is_within(number, field.metadata, is_whole):
                    kind = "a whole number" if is_whole else "a number"
                    raise ValueError(f"Expected {field.name}: {kind} of {_words(field.metadata)}, got {value!r}")
        for name in ("packing", "fused_kernels", "cuda_graphs"):
            if getattr(self, name) not in (True, False, "auto"):
                raise ValueError(f'Expected {name} true, false or "auto", got {getattr(self, name)!r}')
        if (self.max_steps, self.max_tokens, self.num_train_epochs).count(None) != 2:
            raise ValueError(
                f"Expected exactly one of max_steps, max_tokens, num_train_epochs, got {self.max_steps}, "
                f"{self.max_tokens}, {self.num_train_epochs}"
            )
        if self.early_stopping_patience is not None and self.eval_steps is None:
            raise ValueError("early_stopping_patience needs eval_steps: the steps between two held-out evaluations")
        if self.lr_scheduler_type not in ("cosine", "linear", "constant"):
            raise ValueError(f"Expected lr_scheduler_type cosine, linear or constant, got {self.lr_scheduler_type!r}")

    @property
    def order_seed(self) -> int:
        """Seed of the document order."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def is_mixed(self) -> bool:
        """Whether sources are drawn other than in proportion to their size."""
        return self.mixing_temperature != 1 or bool(self.mixing_weights) or self.mixing_cap < 1


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a running training.

    Attributes:
        tokens: Trained tokens, without padding.
        loss: Loss of the last step in nats per answer token.
        tokens_per_second: Speed since the start of this process's training.
    """

    step: int
    num_steps: int
    tokens: int
    loss: float
    tokens_per_second: float


@dataclasses.dataclass(frozen=True, eq=False)
class RunOptions:
    """Measurements and reports of a run beside its training. Every method takes the same options.

    Attributes:
        held_out: Documents for the held-out loss before, during (`eval_steps`) and after training, or None.
        progress: Function that is called at most every two seconds, or None.
    """

    held_out: "TokenisedDocuments | None" = None
    progress: Callable[[Progress], None] | None = None
    show_bar: bool = False
    measure_energy: bool = False


QUIET = RunOptions()
"""Options of a run that only trains: no measurements and no reports."""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        record: Content of `run.json`; `reload_difference` is only in the file.
        held_out_before: Held-out losses before training, or None.
        held_out_after: Held-out losses after training, or None.
    """

    model: "PeftModel | PreTrainedModel"
    folder: Path
    record: Mapping[str, Any]
    held_out_before: "DocumentLosses | None"
    held_out_after: "DocumentLosses | None"
