"""Texts to hidden states of the base model, for features that are hidden states."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.training.recipe import BaseModel

if TYPE_CHECKING:
    from analysis.features.hidden_states import Encoder


@contextmanager
def prompt_encoder(base_model: BaseModel, encoded_by: Mapping[str, Any]) -> Iterator["Encoder"]:
    """The base model as an encoder. It remembers the states of its first texts, so that a sample that features are
    fitted on is not read twice.

    Args:
        encoded_by: what the features say about their states: `template` and `max_length`, and the base model, which
            must be this one.

    Raises:
        ValueError: the states were made by another base model.
    """
    from hydralora.evaluation.prompt_states import prompt_states

    made_by = {name: encoded_by[name] for name in base_model.identity()}
    if made_by != base_model.identity():
        raise ValueError(
            f"expected the base model that the corpus's hidden states were made with, {made_by}, "
            f"got {base_model.identity()}; name it in resources.base_model.config"
        )
    with base_model.lent() as (model, tokenizer):
        template, max_length = encoded_by["template"], encoded_by["max_length"]
        yield _Remembering(
            lambda texts: prompt_states(model, tokenizer, texts, template=template, max_length=max_length)
        )


class _Remembering:
    def __init__(self, encoder: "Encoder") -> None:
        self._encoder = encoder
        self._first: dict[str, np.ndarray] | None = None

    def __call__(self, texts: list[str]) -> np.ndarray:
        if self._first is None:
            states = self._encoder(texts)
            self._first = dict(zip(texts, states, strict=True))
            return states
        new = [text for text in dict.fromkeys(texts) if text not in self._first]
        found = dict(zip(new, self._encoder(new), strict=True)) if new else {}
        return np.stack([self._first[text] if text in self._first else found[text] for text in texts])
