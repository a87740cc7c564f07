"""One run of the study of experts: a setting trained on the study's documents, and its held-out losses.

The method, the loss, the order of batches, the optimiser and the schedule are `hydralora`'s own; the loop is bare, so
that several runs fit beside each other on one GPU. It leaves attention masks out: documents are padded on the right and
attention is causal, so no real token sees padding.
"""

import base64
import copy
import time
import zlib
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from study_data import HOMOGENEOUS, SOURCES, StudyData
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hydralora import HydraLoraConfig
from hydralora.base_model import load_base_model
from hydralora.data import Batch, collate
from hydralora.data.batching import plan_steps
from hydralora.evaluation import length_batches
from hydralora.evaluation.answer_loss import answer_loss, document_losses
from hydralora.gates.losses import balance_loss, cluster_loss
from hydralora.gates.recording import record_gates
from hydralora.training import TrainingConfig
from hydralora.training.trainer import adamw, schedule

TOKENS_PER_STEP = 8192
MICRO_BATCHES = 2
EVALUATION_TOKENS = 4096
PAD = 2  # any token: masked by the loss, unseen by attention
MEASURED_PARTS = {"tune": ("train", "validation"), "final": ("train", "test")}
# The homogeneous corpus alone: its documents of the mix, and more of it.
ALONE_PARTS = ("train", "alone_train")


@dataclass(frozen=True)
class Setting:
    """What a row of the study trains.

    Attributes:
        family: rows among which the best on validation documents goes on to the final runs.
        r, num_experts: of the adapter; with one expert it is LoRA, parameter for parameter, on the fused path.
        learning_rate: its peak.
        gates: of `StudyData.gates`, for router_input="given".
        held_out_gates: gates that held-out losses are measured with; default `gates`. The first one counts.
        options: further fields of the PEFT configuration.
        learning_rate_ratios: part of a parameter's name -> its rate over `learning_rate` (LoRA+).
        guide: gates of `StudyData.gates` that a router learns at first: `cluster_loss`, whose weight falls to 0.
        balance: weight of the balance loss.
    """

    family: str
    r: int
    num_experts: int
    learning_rate: float
    gates: str | None = None
    held_out_gates: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    learning_rate_ratios: dict[str, float] = field(default_factory=dict)
    guide: str | None = None
    balance: float = 0.0

    @property
    def name(self) -> str:
        fields = {**self.options, **self.learning_rate_ratios}
        fields |= {name: value for name in ("guide", "balance") if (value := getattr(self, name))}
        options = "".join(f" {name}={value}" for name, value in sorted(fields.items()))
        gates = f" gates={self.gates}" if self.gates else ""
        return f"{self.family} r={self.r} N={self.num_experts}{gates}{options} lr={self.learning_rate:g}"

    def peft_config(self) -> HydraLoraConfig:
        fields = {"router_input": "given" if self.gates else "low_rank", **self.options}
        return HydraLoraConfig(
            r=self.r,
            num_experts=self.num_experts,
            lora_alpha=2 * self.r,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            **fields,
        )


@dataclass(frozen=True)
class Run:
    """A setting with a seed. `kind`: "tune" (validation loss), "final" (test loss) or "alone" (homogeneous corpus)."""

    setting: Setting
    kind: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.kind} | {self.setting.name} | seed {self.seed}"


@cache
def load_data(path: Path) -> StudyData:
    """The arrays of `study_data`, read once in each process."""
    return StudyData.load(path)


@cache
def base_model(device: str) -> Any:
    """The base model, loaded once in each process; runs work on copies."""
    base, _ = load_base_model("embedded", device=device, dtype=torch.bfloat16)
    return base


def warm_up(path: Path, device: str) -> None:
    """Load what all runs of this process share."""
    torch.set_num_threads(1)
    LlamaRMSNorm.forward = _fused_norm
    load_data(path), base_model(device)


def _fused_norm(self: LlamaRMSNorm, hidden_states: torch.Tensor) -> torch.Tensor:
    """transformers' norm as one kernel instead of six, for all methods alike."""
    with torch.autocast(hidden_states.device.type, enabled=False):
        return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


def execute(run: Run, path: Path, device: str) -> dict[str, Any]:
    """Train and evaluate; the record of the run as JSON values."""
    started = time.perf_counter()
    data = load_data(path)
    training, held_out = _documents(data, run.kind)
    setting = run.setting
    torch.manual_seed(run.seed)
    model = get_peft_model(copy.deepcopy(base_model(device)), setting.peft_config())
    config = TrainingConfig(
        num_train_epochs=1,
        learning_rate=setting.learning_rate,
        tokens_per_step=TOKENS_PER_STEP,
        learning_rate_ratios=setting.learning_rate_ratios,
        gradient_accumulation_steps=MICRO_BATCHES,
        seed=run.seed,
    )
    auxiliary = Auxiliary(setting.guide, setting.balance)
    record = fit(model, data, training, config, device, gates=setting.gates, auxiliary=auxiliary)
    losses = _held_out_losses(model, data, held_out, setting.held_out_gates or (setting.gates,), device)
    counts = (data.lengths - data.answer_starts)[held_out]
    return {
        "key": run.key,
        "kind": run.kind,
        "family": setting.family,
        "setting": setting.name,
        "seed": run.seed,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        **{name: record[name] for name in ("steps", "tokens", "padding")},
        "loss": {gates: source_means(sums, counts, data.sources[held_out]) for gates, sums in losses.items()},
        "document_losses": {gates: pack(sums) for gates, sums in losses.items()},
        "gpu": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - started, 2),
    }


def _documents(data: StudyData, kind: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of training and held-out documents."""
    if kind == "alone":
        alone = data.sources == SOURCES.index(HOMOGENEOUS)
        return np.flatnonzero(alone & np.isin(data.parts, ALONE_PARTS)), np.flatnonzero(alone & (data.parts == "test"))
    training, held_out = MEASURED_PARTS[kind]
    return np.flatnonzero(data.parts == training), np.flatnonzero(data.parts == held_out)


@dataclass(frozen=True)
class Auxiliary:
    """Losses on gates: towards those of `StudyData.gates` at first, and towards equal use of all experts."""

    guide: str | None = None
    balance: float = 0.0

    def __call__(
        self, gates: dict[str, torch.Tensor], data: StudyData, documents: NDArray[np.int64], progress: float
    ) -> torch.Tensor:
        """Of a batch of documents, at a `progress` of 0 to 1 through the steps."""
        reference = next(iter(gates.values()))
        lengths = torch.from_numpy(data.lengths[documents]).to(reference.device)
        mask = torch.arange(reference.shape[1], device=reference.device) < lengths[:, None]
        loss = self.balance * balance_loss(gates, mask)
        if self.guide is not None and progress < 0.5:
            targets = torch.from_numpy(data.gates[self.guide][documents]).to(reference.device)
            loss = loss + (1 - 2 * progress) * cluster_loss(gates, targets, mask)
        return loss


def fit(
    model: PeftModel,
    data: StudyData,
    documents: NDArray[np.int64],
    config: TrainingConfig,
    device: str,
    *,
    gates: str | None = None,
    auxiliary: Auxiliary = Auxiliary(),
    weights: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Train on the documents of these indices; steps, tokens, share of padding, and the loss of each step.

    `weights` [all documents of data] weigh the loss of each document.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False  # autocast would only cast back
    micro_batches = config.gradient_accumulation_steps
    plan = plan_steps(
        data.lengths[documents],
        tokens_per_step=config.tokens_per_step,
        micro_batches_per_step=micro_batches,
        max_tokens=config.max_tokens,
        num_epochs=config.num_train_epochs,
        seed=config.seed,
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = adamw(model, config)
    rates = schedule(optimizer, config, plan.num_steps)
    losses = torch.zeros(plan.num_steps, device=device)
    extra = auxiliary != Auxiliary()
    for step in range(plan.num_steps):
        groups = plan.micro_batches[step * micro_batches : (step + 1) * micro_batches]
        batches = [_batch(data, documents[group], gates, device) for group in groups]
        answers = sum(int((data.lengths - data.answer_starts)[documents[group]].sum()) for group in groups)
        for group, batch in zip(groups, batches, strict=True):
            # A context for each pass: autocast keeps the casts of weights until its context ends.
            with torch.autocast(device, torch.bfloat16), record_gates(model) if extra else nullcontext({}) as recorded:
                loss = _batch_loss(model, batch, None if weights is None else weights[documents[group]]) / answers
            losses[step] += loss.detach()
            if extra:
                weighted = auxiliary(recorded, data, documents[group], step / plan.num_steps) / len(groups)
                loss = loss + weighted
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
    return {
        "steps": plan.num_steps,
        "tokens": int(plan.tokens_of_step.sum()),
        "padding": round(plan.padding_share, 3),
        "losses": [round(value, 4) for value in losses.tolist()],
    }


def _batch_loss(model: PeftModel, batch: Batch, weights: NDArray[np.float32] | None) -> torch.Tensor:
    if weights is None:
        return answer_loss(model, batch)
    losses = document_losses(model, batch)
    return losses @ torch.from_numpy(weights).to(losses.device)


def _held_out_losses(
    model: PeftModel, data: StudyData, documents: NDArray[np.int64], held_out_gates: tuple[str | None, ...], device: str
) -> dict[str, NDArray[np.float32]]:
    """Summed loss of each document under each kind of gates; only documents with other gates are computed again."""
    first = held_out_gates[0]
    losses = {first or "router": document_sums(model, data, documents, first, device)}
    for gates in held_out_gates[1:]:
        other = (data.gates[gates] != data.gates[first])[documents].any(axis=1)
        losses[gates] = losses[first].copy()
        losses[gates][other] = document_sums(model, data, documents[other], gates, device)
    return losses


@torch.inference_mode()
def document_sums(
    model: PeftModel, data: StudyData, documents: NDArray[np.int64], gates: str | None, device: str
) -> NDArray[np.float32]:
    """Summed loss of each document."""
    model.eval()
    sums = torch.zeros(len(documents), device=device)
    for group in length_batches(data.lengths[documents], EVALUATION_TOKENS):
        with torch.autocast(device, torch.bfloat16):
            losses = document_losses(model, _batch(data, documents[group], gates, device))
        sums[torch.from_numpy(group).to(device)] = losses
    return sums.cpu().numpy()


def _batch(data: StudyData, documents: NDArray[np.int64], gates: str | None, device: str) -> Batch:
    batch = collate(data.rows(documents, gates), PAD)
    del batch["attention_mask"]
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def source_means(sums: NDArray[np.float32], counts: NDArray[np.int64], sources: NDArray[np.int64]) -> dict[str, float]:
    """Mean loss of an answer token within each source, and the mean of these means."""
    totals = np.bincount(sources, sums, len(SOURCES)), np.bincount(sources, counts, len(SOURCES))
    means = {name: float(loss / tokens) for name, loss, tokens in zip(SOURCES, *totals, strict=True) if tokens}
    return {"mean": float(np.mean(list(means.values()))), **means}


def pack(values: NDArray[np.float32]) -> str:
    return base64.b64encode(zlib.compress(values.astype("<f4").tobytes(), 9)).decode()


def unpack(text: str) -> NDArray[np.float32]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f4")
