"""Headers that are refused."""

import json
from typing import Any

import httpx
import pytest

from tests.pipelines.serving.small_serving import CAT, StubBackend, chat


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("authorization", "a"), ("authorization", "b")], 400),
        ([("content-type", "text/plain")], 415),
        ([("content-encoding", "gzip")], 415),
        ([("x-hydralora-conversation", "a"), ("x-hydralora-conversation", "b")], 400),
        ([("x-bytes", b"\xff")], 400),
    ],
)
def test_wrong_headers(client: httpx.Client, backend: StubBackend, headers: Any, status: int) -> None:
    kind = [] if headers[0][0] == "content-type" else [("content-type", "application/json")]
    answer = client.post("/v1/chat/completions", content=json.dumps(chat(CAT)).encode(), headers=[*kind, *headers])
    assert answer.status_code == status, answer.text
    assert "header" in answer.json()["error"]["message"]
