"""Trains an adapter on documents in arrays, and measures its held-out losses.

The method, the loss, the order of batches, the optimiser and the schedule are `hydralora`'s own; the loop is bare, so
that several runs fit beside each other on one GPU. It leaves attention masks out: documents are padded on the right and
attention is causal, so no real token sees padding.
"""

import base64
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from study_data import StudyData
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hydralora.base_model import load_base_model
from hydralora.data import Batch, collate
from hydralora.data.batching import plan_steps
from hydralora.evaluation import length_batches
from hydralora.evaluation.answer_loss import answer_loss, document_losses
from hydralora.training import TrainingConfig
from hydralora.training.trainer import adamw, schedule

EVALUATION_TOKENS = 4096
PAD = 2  # any token: masked by the loss, unseen by attention


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


def fit(
    model: PeftModel,
    data: StudyData,
    documents: NDArray[np.int64],
    config: TrainingConfig,
    device: str,
    *,
    gates: str | None = None,
    weights: NDArray[np.float32] | None = None,
    chunked: bool = False,
    order: Iterator[int] | None = None,
    most_tokens: int | None = None,
    own_loss: Callable[[PeftModel, Batch, int], torch.Tensor] | None = None,
    before_zero_grad: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Train on the documents of these indices; steps, tokens, share of padding, and the loss of each step.

    `weights` [all documents of data] weigh the loss of each document. `chunked`: see `answer_loss`. `order` gives
    places in `documents` without end. Micro-batches of more than `most_tokens`, padding included, are split by length.
    `own_loss` takes the model, a batch and the answer tokens of the step; its value is then the loss.
    `before_zero_grad` is called with the number of each step, from 0.
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
        max_steps=config.max_steps,
        max_tokens=config.max_tokens,
        num_epochs=config.num_train_epochs,
        seed=config.seed,
        order=order,
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = adamw(model, config)
    rates = schedule(optimizer, config, plan.num_steps)
    losses = torch.zeros(plan.num_steps, device=device)
    for step in range(plan.num_steps):
        groups = plan.micro_batches[step * micro_batches : (step + 1) * micro_batches]
        if most_tokens is not None:
            parts = [length_batches(data.lengths[documents[group]], most_tokens) for group in groups]
            groups = tuple(group[part] for group, of in zip(groups, parts, strict=True) for part in of)
        batches = [_batch(data, documents[group], gates, device) for group in groups]
        answers = sum(int((data.lengths - data.answer_starts)[documents[group]].sum()) for group in groups)
        for group, batch in zip(groups, batches, strict=True):
            # A context for each pass: autocast keeps the casts of weights until its context ends.
            with torch.autocast(device, torch.bfloat16):
                of_batch = None if weights is None else weights[documents[group]]
                if own_loss is None:
                    loss = _batch_loss(model, batch, of_batch, chunked) / answers
                else:
                    loss = own_loss(model, batch, answers)
            losses[step] += loss.detach()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        rates.step()
        if before_zero_grad is not None:
            before_zero_grad(step)
        optimizer.zero_grad()
    return {
        "steps": plan.num_steps,
        "tokens": int(plan.tokens_of_step.sum()),
        "padding": round(plan.padding_share, 3),
        "losses": [round(value, 4) for value in losses.tolist()],
    }


def _batch_loss(model: PeftModel, batch: Batch, weights: NDArray[np.float32] | None, chunked: bool) -> torch.Tensor:
    if weights is None:
        return answer_loss(model, batch, chunked=chunked)
    losses = document_losses(model, batch)
    return losses @ torch.from_numpy(weights).to(losses.device)


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


def pack(values: NDArray[np.float32]) -> str:
    return base64.b64encode(zlib.compress(values.astype("<f4").tobytes(), 9)).decode()


def unpack(text: str) -> NDArray[np.float32]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f4")
