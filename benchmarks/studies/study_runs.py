"""Trains an adapter on documents in arrays, and measures its held-out losses.

The method, the loss, the order of batches, the optimiser and the schedule are `hydralora`'s own; the loop is bare, so
that several runs fit beside each other on one GPU. On a GPU, documents are packed and steps are replayed as graphs, as
in the product's own training: a small model would wait for Python otherwise. Elsewhere, documents are padded on the
right without a mask: attention is causal, so no real token sees padding.
"""

import base64
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from hydralora.data import Batch, collate, collate_packed
from hydralora.data.batching import plan_steps
from hydralora.data.row_sizes import RowSizes, fill_row
from hydralora.evaluation import length_batches
from hydralora.evaluation.answer_loss import answer_loss, document_losses
from hydralora.training import TrainingConfig
from hydralora.training.step.graphs import StepGraphs
from hydralora.training.step.kernels import kernels_in, wants_kernels
from hydralora.training.step.packing import Packing, decide_packing
from hydralora.training.trainer import adamw, schedule

EVALUATION_TOKENS = 4096
WEIGHTS = "document_weights"  # entry of a batch: factor on the loss of each document
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


@cache
def _packing(device: str) -> Packing:
    """Whether the base model takes packed rows; tried once in each process."""
    return decide_packing(base_model(device), None, TrainingConfig(max_steps=1))


@contextmanager
def packed_rows(model: Any, device: str) -> Iterator[bool]:
    """Let the model take packed rows, with fused kernels, while the context lasts; yields whether it does."""
    virtual_tokens = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    packing = Packing(False) if virtual_tokens else _packing(device)
    fused = packing.packed and wants_kernels(model, TrainingConfig(max_steps=1))
    with packing.attention_of(model), kernels_in(model, fused):
        yield packing.packed


def _untimed() -> Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, float, float]]:
    """Beside other runs, times tell nothing: the first micro-batch, a launched one, counts as slower than a replay."""
    seconds = iter((1.0, 0.0))

    def timed(run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float, float]:
        took = next(seconds)
        return run(), took, took

    return timed


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
    places in `documents` without end. Padded micro-batches of more than `most_tokens` are split by length.
    `own_loss` takes the model, a batch and the answer tokens of the step; its value is then the loss.
    `before_zero_grad` is called with the number of each step, from 0; then no graphs are recorded.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False  # autocast would only cast back
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = adamw(model, config)

    def micro_batch(batch: Any, answers: torch.Tensor) -> torch.Tensor:
        # A context for each pass: autocast keeps the casts of weights until its context ends.
        with torch.autocast(device, torch.bfloat16):
            if own_loss is None:
                loss = _batch_loss(model, batch, chunked) / answers
            else:
                loss = own_loss(model, batch, int(answers))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    with packed_rows(model, device) as packed:
        # A row of more tokens would need more memory, and not be faster.
        one_row = packed and config.tokens_per_step <= 4096
        micro_batches = 1 if one_row else config.gradient_accumulation_steps
        plan = plan_steps(
            data.lengths[documents],
            tokens_per_step=config.tokens_per_step,
            micro_batches_per_step=micro_batches,
            max_steps=config.max_steps,
            max_tokens=config.max_tokens,
            num_epochs=config.num_train_epochs,
            seed=config.seed,
            packed=packed,
            order=order,
        )
        answers_of = (data.lengths - data.answer_starts)[documents]
        graphs, sizes = None, None
        if packed and before_zero_grad is None and device == "cuda":
            drops = any(isinstance(module, torch.nn.Dropout) and module.p for module in model.modules())
            graphs = StepGraphs(parameters, required=False, has_dropout=drops, timed=_untimed())
            sizes = RowSizes.of(plan.micro_batches, data.lengths[documents], answers_of)
        rates = schedule(optimizer, config, plan.num_steps)
        losses = torch.zeros(plan.num_steps, device=device)
        for step in range(plan.num_steps):
            groups = plan.micro_batches[step * micro_batches : (step + 1) * micro_batches]
            if most_tokens is not None and not packed:
                parts = [length_batches(data.lengths[documents[group]], most_tokens) for group in groups]
                groups = tuple(group[part] for group, of in zip(groups, parts, strict=True) for part in of)
            answers = torch.tensor(sum(int(answers_of[group].sum()) for group in groups), device=device)
            for group in groups:
                batch = _batch(data, documents[group], gates, device, packed=packed, sizes=sizes, weights=weights)
                losses[step] += (
                    micro_batch(batch, answers) if graphs is None else graphs.run(micro_batch, batch, answers)
                )
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimizer.step()
            rates.step()
            if before_zero_grad is not None:
                before_zero_grad(step)
            optimizer.zero_grad(set_to_none=graphs is None or not graphs.keeps_gradients)
        found = losses.tolist()
        if graphs is not None:
            graphs.release()
            if graphs.use.reason is not None:
                print(f"no graphs: {graphs.use.reason}", flush=True)
    return {
        "steps": plan.num_steps,
        "tokens": int(plan.tokens_of_step.sum()),
        "padding": round(plan.padding_share if sizes is None else sizes.padding_share, 3),
        "losses": [round(value, 4) for value in found],
    }


def _batch_loss(model: PeftModel, batch: Batch, chunked: bool) -> torch.Tensor:
    if WEIGHTS not in batch:
        return answer_loss(model, batch, chunked=chunked)
    weights = batch[WEIGHTS]
    losses = document_losses(model, {name: value for name, value in batch.items() if name != WEIGHTS})
    return (losses * weights).sum()  # autocast would round a product of vectors


@torch.inference_mode()
def document_sums(
    model: PeftModel, data: StudyData, documents: NDArray[np.int64], gates: str | None, device: str
) -> NDArray[np.float32]:
    """Summed loss of each document."""
    model.eval()
    sums = torch.zeros(len(documents), device=device)
    with packed_rows(model, device) as packed:
        for group in length_batches(data.lengths[documents], EVALUATION_TOKENS * (2 if packed else 1)):
            with torch.autocast(device, torch.bfloat16):
                losses = document_losses(model, _batch(data, documents[group], gates, device, packed=packed))
            sums[torch.from_numpy(group).to(device)] = losses
    return sums.cpu().numpy()


def _batch(
    data: StudyData,
    documents: NDArray[np.int64],
    gates: str | None,
    device: str,
    *,
    packed: bool,
    sizes: RowSizes | None = None,
    weights: NDArray[np.float32] | None = None,
) -> Batch:
    rows = data.rows(documents, gates)
    if packed:
        batch = collate_packed(rows) if sizes is None else fill_row(collate_packed(rows), sizes)
    else:
        batch = collate(rows, PAD)
        del batch["attention_mask"]
    if weights is not None:
        fillers = len(batch["cu_seq_lens_q"]) - 1 - len(documents) if packed else 0
        batch[WEIGHTS] = F.pad(torch.from_numpy(weights[documents]), (0, fillers))
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


def pack(values: NDArray[np.float32]) -> str:
    return base64.b64encode(zlib.compress(values.astype("<f4").tobytes(), 9)).decode()


def unpack(text: str) -> NDArray[np.float32]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f4")
