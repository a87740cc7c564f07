"""Bodies that can be read, and clear errors for all others."""

import json
from typing import Any

import httpx
import pytest

from tests.pipelines.serving.small_serving import CAT, StubBackend

WRONG = {
    "no JSON": (b"{", 400, "JSON"),
    "no UTF-8": (b'{"model": "\xff"}', 400, "UTF-8"),
    "UTF-16": ('{"model": "auto"}'.encode("utf-16"), 400, "UTF-8"),
    "a list": (b"[1]", 400, "got a list"),
    "nesting": (b"[" * 100_000, 400, "JSON"),
    "NaN": (b'{"model": "auto", "temperature": NaN}', 400, "NaN"),
    "a huge number": (b'{"model": "cats", "messages": [], "seed": 1e999}', 400, "too large"),
    "many digits": (b'{"model": "cats", "seed": 1' + b"0" * 5000 + b"}", 400, "JSON"),
    "no model": (b'{"messages": []}', 400, "model: expected auto or one of ships, cats, others, base"),
    "a model of a wrong type": (b'{"model": ["auto"]}', 400, "model"),
    "an unknown model": (b'{"model": "dogs"}', 404, "got 'dogs'"),
    "no messages": (b'{"model": "auto"}', 400, "messages: expected a list with a message, got nothing"),
    "messages of a wrong type": (b'{"model": "auto", "messages": {"role": "user"}}', 400, "got an object"),
    "a message of a wrong type": (b'{"model": "auto", "messages": ["hi"]}', 400, "messages[0]: expected an object"),
    "an unknown role": (b'{"model": "auto", "messages": [{"role": "cat", "content": ""}]}', 400, "messages[0].role"),
    "a number": (b'{"model": "auto", "messages": [{"role": "user", "content": 1}]}', 400, "got a number"),
    "nothing to read": (b'{"model": "auto", "messages": [{"role": "user", "content": null}]}', 400, "some text"),
    "only an answer": (b'{"model": "auto", "messages": [{"role": "assistant", "content": "x"}]}', 400, "some text"),
    "a picture": (
        b'{"model": "auto", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}',
        400,
        "only text",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_bodies_get_one_clear_error(client: httpx.Client, backend: StubBackend, name: str) -> None:
    body, status, words = WRONG[name]
    answer = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert not backend.asked


@pytest.mark.parametrize("prompt", [None, "", " ", [], [1, 2], [[1]], [CAT, None], {"a": 1}, [""]])
def test_prompts_that_cannot_be_read(client: httpx.Client, backend: StubBackend, prompt: Any) -> None:
    answer = client.post("/v1/completions", json={"model": "auto", "prompt": prompt})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")


def test_parts_tools_and_lone_surrogates_are_read(client: httpx.Client, backend: StubBackend) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weigh", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "\ud800 " + CAT}, {"type": "text", "text": CAT}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": CAT},
    ]
    body = json.dumps({"model": "auto", "messages": messages}).encode()
    answer = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.headers["x-hydralora-expert"] == "cats"
    assert backend.asked[-1][2]["messages"] == messages
