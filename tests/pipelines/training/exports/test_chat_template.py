"""The chat template for servers writes what training read."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from analysis.sources.chat import Chat, pair, prompt_of
from hydralora.base_model import provision_embedded_base_model
from hydralora.data import Frame
from pipelines.training.exports.chat_template import chat_template

CALL = {"type": "function", "function": {"name": "look", "arguments": '{"at": "ü"}'}}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "How many?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How\nmany “quotes” \U0001f600?"}],
    [
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "seen"},
        {"role": "user", "content": "And now?"},
    ],
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(provision_embedded_base_model())


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("template", ["plain", "chat"])
def test_writes_what_training_read(tokenizer: Any, template: Any, messages: list[dict[str, Any]]) -> None:
    frame = Frame.of(tokenizer, template)
    expected = frame.before + prompt_of(Chat({}).turns(messages, lambda: "")) + frame.between
    assert rendered(tokenizer, frame, messages) == expected


def test_an_answer_that_is_begun_follows_the_prompt(tokenizer: Any) -> None:
    frame = Frame.of(tokenizer, "plain")
    messages = [*CONVERSATIONS[0], {"role": "assistant", "content": "Six"}]
    prompt, answer = pair(Chat({}).turns(messages, lambda: ""))
    assert rendered(tokenizer, frame, messages) == frame.before + prompt + frame.between + answer


def test_bos_and_odd_characters_of_a_frame(tokenizer: Any) -> None:
    frame = Frame('a"b\\n\U0001f600\t', "\n'x'{{ no }}", (1,), add_bos=True)
    got = rendered(tokenizer, frame, CONVERSATIONS[0])
    assert got == tokenizer.bos_token + frame.before + "How many?" + frame.between


def rendered(tokenizer: Any, frame: Frame, messages: list[dict[str, Any]]) -> str:
    return str(tokenizer.apply_chat_template(messages, chat_template=chat_template(frame), tokenize=False))
