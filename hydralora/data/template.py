"""The text around a prompt and an answer: a chat template, or a blank line between them."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Template = Literal["chat", "plain"]
_ANSWER_MARK = "<ANSWER-GOES-HERE>"


class DataError(ValueError):
    """The documents cannot be used for training; the message tells what to do."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """The text and tokens that a template puts around a prompt and after an answer.

    Attributes:
        add_bos: Whether a document starts with the tokenizer's BOS token.
    """

    before: str
    between: str
    end: tuple[int, ...]
    add_bos: bool

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", template: Template) -> "Frame":
        """Read the frame from the tokenizer.

        `end` stops at the first special token that the chat template puts after an answer. It is not always the
        tokenizer's `eos_token`: Llama 3 ends a turn with `<|eot_id|>`.

        Raises:
            DataError: If the template is unknown, the tokenizer has no end token, or it has no chat template for
                `template="chat"`.
        """
        if template not in get_args(Template):
            raise DataError(f"template: expected one of {', '.join(get_args(Template))}, got {template!r}")
        if tokenizer.eos_token_id is None:
            raise DataError("The tokenizer has no end token, so a model could not learn where an answer ends")
        end = (int(tokenizer.eos_token_id),)
        if template == "plain":
            starts_with_bos = tokenizer("x").input_ids[:1] == [tokenizer.bos_token_id]
            return cls("", "\n\n", end, starts_with_bos)
        if not tokenizer.chat_template:
            raise DataError("The tokenizer has no chat template; use template='plain' for this base model")
        question = [{"role": "user", "content": _ANSWER_MARK}]
        opened = _render(tokenizer, question, opens_answer=True)
        before, between = opened.split(_ANSWER_MARK)
        turns = [*question, {"role": "assistant", "content": _ANSWER_MARK}]
        answered = _render(tokenizer, turns, opens_answer=False)
        after = tokenizer(answered.split(_ANSWER_MARK)[-1], add_special_tokens=False).input_ids
        special = set(tokenizer.all_special_ids)
        ends = [i for i, token in enumerate(after) if token in special]
        return cls(before, between, tuple(after[: ends[0] + 1]) if ends else end, add_bos=False)

    def prompt_tokens(self, tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str]) -> list[list[int]]:
        """Tokens before the answer; they are the same in training, evaluation and generation."""
        texts = [self.before + prompt + self.between for prompt in prompts]
        bos = [tokenizer.bos_token_id] if self.add_bos else []
        return [bos + tokens for tokens in tokenizer(texts, add_special_tokens=False).input_ids]

    def answer_tokens(self, tokenizer: "PreTrainedTokenizerBase", answers: Sequence[str]) -> list[list[int]]:
        """Tokens of answers with the end tokens; text that looks like a special token stays text."""
        encoded = tokenizer(list(answers), add_special_tokens=False, split_special_tokens=True).input_ids
        return [[*tokens, *self.end] if tokens else [] for tokens in encoded]


def _render(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]], *, opens_answer: bool) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens_answer))
