"""Hidden states of prompts: the base model's last hidden state at the last token of each prompt."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydralora.data import Frame, Template, pad_token_id
from hydralora.data.documents import without_middle
from hydralora.evaluation.answer_loss import states_at
from hydralora.evaluation.held_out import length_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.inference_mode()
def prompt_states(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    *,
    template: Template = "chat",
    max_length: int = 512,
    batch_tokens: int = 4096,
) -> NDArray[np.float32]:
    """Compute the output layer's input for the first token of each answer.

    It needs one forward pass over the prompts, without logits. A prompt longer than `max_length` loses its middle.

    Args:
        model: A causal language model of transformers, without an adapter.
        template: Template around a prompt, see `hydralora.data.tokenise`.
        batch_tokens: Largest number of tokens in a forward pass, with padding. A longer prompt is a batch alone.

    Returns:
        Hidden states [prompts, hidden].

    Raises:
        DataError: If the tokenizer has no end token, or no chat template for `template="chat"`.
    """
    if not prompts:  # tokenizers refuse an empty list
        return np.zeros((0, model.get_output_embeddings().weight.shape[1]), np.float32)
    tokens = [
        without_middle(row, max_length) for row in Frame.of(tokenizer, template).prompt_tokens(tokenizer, prompts)
    ]
    lengths = np.array([len(row) for row in tokens], np.int64)
    device = next(model.parameters()).device
    found: list[tuple[NDArray[np.int64], Tensor]] = []
    for group in length_batches(lengths, batch_tokens):
        shape = (len(group), int(lengths[group].max()))
        input_ids = torch.full(shape, pad_token_id(tokenizer))
        mask = torch.zeros(shape, dtype=torch.long)
        for row, i in enumerate(group):
            input_ids[row, : lengths[i]] = torch.tensor(tokens[i])
            mask[row, : lengths[i]] = 1
        ends = torch.from_numpy(np.arange(len(group)) * shape[1] + lengths[group] - 1).to(device)
        batch = {"input_ids": input_ids.to(device), "attention_mask": mask.to(device)}
        found.append((group, states_at(model, batch, shape[1], ends)))
    states = np.zeros((len(tokens), found[0][1].shape[1]), np.float32)
    for group, rows in found:
        states[group] = rows.float().cpu().numpy()
    return states
