"""Tries a base model on short documents before a run: whether it is a causal language model at all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakSet

import torch
from numpy.typing import NDArray
from torch import Tensor

from hydralora.adapter.state import in_eval_mode
from hydralora.data import collate_packed
from hydralora.evaluation.answer_loss import answer_logits
from hydralora.training.config import TrainingError

_causal: "WeakSet[Any]" = WeakSet()  # base models that were tried: several trainings may share one


def check_is_causal(model: Any, *, autocast: bool) -> None:
    """Check that no token of a base model sees later ones: else it would see the answers that it has to predict.

    Raises:
        TrainingError: If it does, or if the model does not run on a row of tokens alone.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if base in _causal:
        return
    name = type(base).__name__
    try:
        with in_eval_mode(model), tokens_of(model) as states:
            logits = logits_of_last(model, short_documents(model)[-1:], autocast=autocast)
        sees_later = depends_on(logits[0], states, slice(1, None))
    except (NotImplementedError, RuntimeError):
        return  # cannot be tried
    except (ValueError, TypeError) as error:
        raise TrainingError(
            f"Expected a causal language model, got {name}, which does not run on tokens alone: {error}"
        ) from error
    if sees_later:
        raise TrainingError(
            f"Expected a causal language model, got {name}, in which a token sees later ones, so it would see the "
            f"answers. Load it as a decoder (is_decoder=True), or choose another base model."
        )
    _causal.add(base)


def short_documents(model: Any) -> list[NDArray[Any]]:
    """Random tokens: two documents of one length and a shorter one."""
    vocabulary = model.config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(vocabulary, (n,), generator=draw).numpy() for n in (9, 9, 7)]


def logits_of_last(model: Any, documents: Sequence[NDArray[Any]], *, autocast: bool) -> Tensor:
    """Logits of the last document of a packed row in float32, without adapters: [its tokens - 1, vocabulary]."""
    rows = [{"input_ids": tokens, "answer_start": len(tokens)} for tokens in documents]
    rows[-1]["answer_start"] = 1
    device = model.device
    batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in collate_packed(rows).items()}
    disabled = model.disable_adapter() if hasattr(model, "peft_config") else nullcontext()
    with disabled, torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        return answer_logits(model, batch)[0].float()


@contextmanager
def tokens_of(model: Any) -> Iterator[list[Tensor]]:
    """Collects the embedded tokens of each call, [batch, length, d], so that gradients reach them."""
    states: list[Tensor] = []

    def keep(_module: Any, _args: Any, output: Tensor) -> Tensor:
        states.append(output.detach().requires_grad_())
        return states[-1]

    handle = model.get_input_embeddings().register_forward_hook(keep)
    try:
        yield states
    finally:
        handle.remove()


def depends_on(values: Tensor, states: Sequence[Tensor], tokens: slice) -> bool:
    """Whether values have a gradient in some tokens of the call that gave `states`, exactly.

    Raises:
        NotImplementedError: If the model did not use its input embeddings.
    """
    if not states:
        raise NotImplementedError("its input embeddings are not called")
    [gradient] = torch.autograd.grad(values.square().sum(), [states[0]])
    return bool(gradient[0, tokens].any())
