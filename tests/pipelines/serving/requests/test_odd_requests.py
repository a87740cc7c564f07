"""Any JSON at all is read, or refused with one error."""

import contextlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.serving.errors import RequestError
from pipelines.serving.requests.conversations import prefix_keys
from pipelines.serving.requests.prompts import chat_prompt, completion_prompts, conversation_turns, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "tool_use", "tool_result"])},
    optional={"text": VALUES, "content": VALUES, "name": VALUES, "input": VALUES},
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer", "function"])},
    optional={
        "content": st.text(max_size=8) | st.lists(PART | VALUES, max_size=3) | VALUES,
        "tool_calls": VALUES | st.lists(st.fixed_dictionaries({"function": VALUES, "name": VALUES}), max_size=2),
        "function_call": VALUES,
        "name": VALUES,
    },
)


@settings(deadline=None)
@given(st.lists(MESSAGE | VALUES, max_size=4) | VALUES)
def test_messages(messages: object) -> None:
    with contextlib.suppress(RequestError):
        turns = conversation_turns({"messages": messages})
        assert len(prefix_keys(turns)) == len(turns)
        assert chat_prompt(turns).strip()


@given(VALUES)
def test_prompts(prompt: object) -> None:
    with contextlib.suppress(RequestError):
        assert all(isinstance(text, str) for text in completion_prompts({"prompt": prompt}))


@given(st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_bodies(body: bytes) -> None:
    with contextlib.suppress(RequestError):
        assert isinstance(parse(body), dict)


def test_two_turns_are_not_one() -> None:
    assert prefix_keys([("user", "a"), ("user", "b")])[-1] != prefix_keys([("user", "ab")])[-1]
    assert prefix_keys([("user", "a")]) != prefix_keys([("tool", "a")])
