"""Loss on answer tokens, with logits computed only for positions that have a loss.

With a vocabulary of 49,152 the output layer is a fifth of a 135M model, and half or more of all positions belong to
prompts. Their logits would be computed, kept for the backward pass, and never used.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Integer
from torch import Tensor, nn

from hydralora.base_model.packed_attention import for_attention
from hydralora.data import answer_index
from hydralora.evaluation.chunked_loss import can_chunk, chunked_cross_entropy

_TRIED = 64  # answer tokens: comparing the logits of all would take more memory than a checkpointed step
# Entries of a batch that are not inputs of the model.
_NOT_FOR_THE_MODEL = ("labels", "cluster", "document_of_token", "answer_index")


def answer_logits(
    model: nn.Module, batch: Mapping[str, Any]
) -> tuple[Float[Tensor, "n vocabulary"], Integer[Tensor, " n"], Integer[Tensor, " n"]]:
    """Logits that predict answer tokens, one row a token.

    A hook passes only those positions to the output layer. The rest of the model does not change, so this works for any
    causal language model of transformers with any PEFT method. Virtual tokens of prompt methods come first in the
    hidden states and are skipped.

    Args:
        model: A causal language model, possibly wrapped by PEFT or DistributedDataParallel.
        batch: `input_ids`, `attention_mask`, `labels` [batch, length] (`IGNORED` outside answers) and other inputs of
            the model's forward pass (`expert_gates`); or the result of `collate_packed`.

    Returns:
        Logits [n, vocabulary], targets [n], and the document index of each [n].
    """
    index, targets, documents = _answers(batch)
    length = batch["labels"].shape[1]
    with _output_layer_gets(model, lambda hidden: _at(hidden, length, index)):
        logits = model(**model_inputs(model, batch), use_cache=False).logits
    return logits, targets, documents


def answer_loss(model: nn.Module, batch: Mapping[str, Any], *, chunked: bool = False) -> Float32[Tensor, ""]:
    """Sum of cross entropies (nats, float32) over the answer tokens of a batch, which is as in `answer_logits`.

    Args:
        chunked: Whether to never hold the logits of all answer tokens at once. Allowed only if
            `logits_can_be_chunked(model, batch)`.
    """
    if chunked:
        hidden, targets = _answer_states(model, batch)
        return chunked_cross_entropy(hidden, cast(nn.Linear, _output_layer(model)), targets)
    logits, targets, _ = answer_logits(model, batch)
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def document_losses(model: nn.Module, batch: Mapping[str, Any]) -> Float32[Tensor, " documents"]:
    """Sum of cross entropies (nats, float32) over the answer tokens of each document [documents]."""
    logits, targets, documents = answer_logits(model, batch)
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    packed = "cu_seq_lens_q" in batch
    count = len(batch["cu_seq_lens_q"]) - 1 if packed else len(batch["labels"])
    return torch.zeros(count, device=losses.device).index_add_(0, documents, losses)


def model_inputs(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a batch that are inputs of the model's forward pass, without labels."""
    inputs = {name: value for name, value in batch.items() if name not in _NOT_FOR_THE_MODEL}
    return for_attention(getattr(model, "module", model), inputs)


def logits_can_be_chunked(model: nn.Module, batch: Mapping[str, Any]) -> bool:
    """Whether `answer_loss(chunked=True)` equals this model's loss; tried on a batch.

    Some models scale or cap the logits of their output layer, so their loss needs the model's own logits.
    """
    layer: Any = _output_layer(model)
    if not can_chunk(layer):
        return False
    few = {**batch, "answer_index": _answers(batch)[0][:_TRIED]}
    with torch.no_grad():
        logits, _, _ = answer_logits(model, few)
        hidden, _ = _answer_states(model, few)
        weight, bias = layer.weight, layer.bias  # not `layer(hidden)`: FSDP2 wants the whole model to run
        if type(weight) not in (nn.Parameter, Tensor):
            return False  # still split
        expected = F.linear(hidden.to(weight.dtype), weight, bias)
        return torch.allclose(expected.float(), logits.float(), rtol=1e-2, atol=1e-3)


def _answer_states(
    model: nn.Module, batch: Mapping[str, Any]
) -> tuple[Float[Tensor, "n hidden"], Integer[Tensor, " n"]]:
    """Inputs of the output layer that predict answer tokens [n, hidden], and these tokens [n]."""
    index, targets, _ = _answers(batch)
    return states_at(model, model_inputs(model, batch), batch["labels"].shape[1], index), targets


def states_at(
    model: nn.Module, inputs: Mapping[str, Any], length: int, index: Integer[Tensor, " n"]
) -> Float[Tensor, "n hidden"]:
    """Inputs of the output layer [n, hidden] at some positions. The layer itself gets no position to compute.

    Args:
        inputs: Inputs of the model's forward pass.
        length: Tokens in a row of the batch, with padding.
        index: Positions in the flattened batch.
    """
    states: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        states.append(_at(hidden, length, index))
        return hidden[:, :0]

    with _output_layer_gets(model, keep):
        model(**inputs, use_cache=False)
    [found] = states
    return found


@contextmanager
def _output_layer_gets(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While the context lasts, the output layer gets `change(hidden)` in place of the hidden states."""
    hook = _output_layer(model).register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))
    try:
        yield
    finally:
        hook.remove()


def _answers(
    batch: Mapping[str, Any],
) -> tuple[Integer[Tensor, " n"], Integer[Tensor, " n"], Integer[Tensor, " n"]]:
    """Position before each answer token, in the flattened batch, the token, and its document; each [n]."""
    labels = batch["labels"]
    index = batch["answer_index"] if "answer_index" in batch else answer_index(labels)
    targets = labels.flatten()[index + 1]
    documents = batch["document_of_token"][index] if "document_of_token" in batch else index // labels.shape[1]
    return index, targets, documents


def _at(hidden: Float[Tensor, "batch positions d"], length: int, index: Integer[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Hidden states [n, d] at positions of the flattened batch; virtual tokens come before them."""
    return hidden[:, hidden.shape[1] - length :].flatten(0, 1).index_select(0, index.to(hidden.device))


def _output_layer(model: nn.Module) -> nn.Module:
    unwrapped: Any = getattr(model, "module", model)
    layer = unwrapped.get_output_embeddings()
    if layer is None:
        raise TypeError(f"Expected a causal language model with an output layer, got {type(unwrapped).__name__}")
    return layer
