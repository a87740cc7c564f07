"""Requests and answers cross byte for byte, whole or not at all."""

import gzip
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.pipelines.serving.small_serving import CAT, UNKNOWN, StubBackend, chat, lines, raw_socket, wait_for


def test_headers_cross_but_for_those_of_the_connection(client: httpx.Client, backend: StubBackend) -> None:
    backend.status = 418
    backend.headers = [
        (b"content-type", b"text/plain"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"connection", b"x-hop"),
        (b"x-hop", b"1"),
        (b"x-request-id", b"7"),
        (b"x-hydralora-expert", b"forged"),
    ]
    given = {
        "authorization": "Bearer secret",
        "x-mine": "ü",
        "connection": "keep-alive, x-drop",
        "x-drop": "1",
        "te": "trailers",
        "x-hydralora-conversation": "c",
    }
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    answer = client.post("/v1/chat/completions", json=chat(CAT), headers=raw)
    assert answer.status_code == 418
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert answer.headers.get_list("x-hydralora-expert") == ["cats"]
    assert answer.headers["x-request-id"] == "7"
    assert "x-hop" not in answer.headers
    asked = dict(backend.asked[-1][1])
    assert asked[b"authorization"] == b"Bearer secret"
    assert asked[b"x-mine"] == "ü".encode()
    assert not asked.keys() & {b"x-drop", b"te", b"x-hydralora-conversation"}


def test_compressed_answers_are_not_touched(client: httpx.Client, backend: StubBackend) -> None:
    packed = gzip.compress(b'{"a": "b"}')
    backend.parts, backend.headers = [packed], [(b"content-encoding", b"gzip"), (b"content-type", b"application/json")]
    with client.stream("POST", "/v1/chat/completions", json=chat(CAT)) as answer:
        assert b"".join(answer.iter_raw()) == packed


def test_streams_pass_while_they_come_byte_for_byte(client: httpx.Client, backend: StubBackend) -> None:
    first, second = b'data: {"choices": ["\xc3\xa4"]}\n\n', b": ping\r\ndata:  [DONE]\n\n\n"
    backend.parts, backend.headers = [first, None, second], [(b"content-type", b"text/event-stream; charset=utf-8")]
    with client.stream("POST", "/v1/chat/completions", json=chat(CAT, stream=True)) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["x-hydralora-expert"] == "cats"
        parts = answer.iter_raw()
        assert next(parts) == first  # while the backend waits
        backend.go.set()
        assert b"".join(parts) == second


def test_a_client_that_leaves_ends_the_backends_work(client: httpx.Client, backend: StubBackend) -> None:
    backend.parts = [b"data: 1\n\n", None]
    with client.stream("POST", "/v1/chat/completions", json=chat(CAT, stream=True)) as answer:
        next(answer.iter_raw())
    assert backend.left.wait(5)
    assert "hydralora_client_disconnects_total" in client.get("/metrics").text
    assert wait_for(lambda: client.get("/healthz").json()["active"] == 0)


def test_an_answer_that_breaks_off_is_not_taken_for_whole(client: httpx.Client, backend: StubBackend) -> None:
    backend.parts, backend.breaks = [b"data: 1\n\n"], True
    with pytest.raises(httpx.RemoteProtocolError):
        client.post("/v1/chat/completions", json=chat(CAT, stream=True))


def test_large_bodies(client: httpx.Client, backend: StubBackend) -> None:
    long = chat(f"{CAT}. " * 5_000)
    assert client.post("/v1/chat/completions", json=long).headers["x-hydralora-expert"] == "cats"
    answer = client.post("/v1/chat/completions", json=chat("x" * (1 << 20)))
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")

    def parts() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    answer = client.post("/v1/chat/completions", content=parts(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_slow_bodies_are_cut_off(servers: Any, backend: StubBackend) -> None:
    with raw_socket(servers[1]) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_an_error_of_ours_is_said_and_logged_without_the_text(
    client: httpx.Client, backend: StubBackend, servers: Any, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    def fail(*_: Any) -> Any:
        raise LookupError("Hush")

    monkeypatch.setattr(servers[2].state.proxy.router, "decide", fail)
    logger = logging.getLogger("hydralora.serving")
    logger.addHandler(caplog.handler)
    try:
        answer = client.post("/v1/chat/completions", json=chat("Hush"))
        assert wait_for(lambda: len(lines(caplog)) >= 2)
    finally:
        logger.removeHandler(caplog.handler)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "LookupError in the proxy" in caplog.text
    assert "Hush" not in "".join(lines(caplog)).replace('"Hush"', "")


def test_logs_and_metrics_have_no_text_of_the_client(
    client: httpx.Client, backend: StubBackend, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("hydralora.serving")
    logger.addHandler(caplog.handler)
    try:
        for text in (f"{CAT} Hush", UNKNOWN + "Hush"):
            client.post("/v1/chat/completions", json=chat(text), headers={"authorization": "Bearer Hush"})
        client.post("/v1/chat/completions", json=chat(CAT, model="Hush"))
        assert wait_for(lambda: len(lines(caplog)) >= 3)
    finally:
        logger.removeHandler(caplog.handler)
    assert lines(caplog)[0].startswith("chat/completions 200 cats prompt ")
    metrics = client.get("/metrics").text
    assert "Hush" not in caplog.text + metrics
    assert 'hydralora_requests_total{expert="cats",reason="prompt",status="200"}' in metrics
    assert "hydralora_backend_ready 1.0" in metrics
