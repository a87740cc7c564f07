"""Backends that answer as no backend should, clients of HTTP/1.0, and odd addresses."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.serving.app import create_app
from pipelines.serving.server import server_config
from pipelines.serving.setup.settings import Settings
from tests.pipelines.serving.small_serving import CAT, MODELS, chat, free_port, raw_socket, running

CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = [b"data: a\r\n\r\n", b"\r", b": ping\n\n", b"data: \xe2\x82", b"\xac\r\r", b"data: [DONE]\n\n"]
STREAM = CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in EVENTS) + b"0\r\n\r\n"
ANSWER = b'HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{"ok":1}'


class RawBackend(threading.Thread):
    """Says any bytes to a request, and closes the connection. Remembers the last head."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.answer, self.head = ANSWER, b""

    def run(self) -> None:
        while True:
            with self.listening.accept()[0] as connection:
                head, _, body = connection.recv(1 << 16).partition(b"\r\n\r\n")
                if head.startswith(b"GET"):
                    models = json.dumps({"data": [{"id": name} for name in MODELS]}).encode()
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(models), models))
                    continue
                while not body.endswith(b"}"):
                    body += connection.recv(1 << 16)
                self.head = head
                connection.sendall(self.answer)


@pytest.fixture(scope="module")
def raw(exports: Path) -> Iterator[tuple[RawBackend, str]]:
    backend = RawBackend()
    backend.start()
    settings = Settings(exports, f"http://127.0.0.1:{backend.port}", port=free_port())
    with running(server_config(settings, create_app(settings))) as url:
        yield backend, url


def said(url: str, path: str = "/v1/chat/completions", version: str = "1.1") -> tuple[int, dict[bytes, bytes], bytes]:
    """Ask in raw bytes: status, headers and body as they came, until the connection closes."""
    body = json.dumps(chat(CAT)).encode()
    with raw_socket(url) as connection:
        request = f"POST {path} HTTP/{version}\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(request.encode() + body)
        got = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    start, _, rest = got.partition(b"\r\n")
    head, _, content = rest.partition(b"\r\n\r\n")
    return int(start.split()[1]), dict(line.split(b": ", 1) for line in head.split(b"\r\n")), content


WRONG = {
    "nothing": b"",
    "no HTTP": b"good day\r\n\r\n",
    "no status": b"HTTP/1.1 what\r\ncontent-length: 0\r\n\r\n",
    "a status below all": b"HTTP/1.1 042 x\r\ncontent-length: 0\r\n\r\n",
    "a status above all": b"HTTP/1.1 600 x\r\ncontent-length: 0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "a length and chunks": CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-length: 1\r\n\r\n1\r\na\r\n0\r\n\r\n"),
    "a name with a space": b"HTTP/1.1 200 OK\r\nbad name: 1\r\ncontent-length: 0\r\n\r\n",
    "a long header": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000 + b"\r\ncontent-length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_a_bad_gateway(raw: tuple[RawBackend, str], name: str) -> None:
    raw[0].answer = WRONG[name]
    status, _, body = said(raw[1])
    assert (status, json.loads(body)["error"]["type"]) == (502, "server_error")
    assert "backend" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_events_with_any_line_ends_arrive(raw: tuple[RawBackend, str], version: str) -> None:
    raw[0].answer = STREAM
    status, headers, body = said(raw[1], version=version)
    assert status == 200
    if version == "1.1":
        assert body.endswith(b"0\r\n\r\n")
        lines = body.split(b"\r\n")
        assert headers[b"transfer-encoding"] == b"chunked"
        assert all(piece in body for piece in (b"data: \xe2\x82", b"\xac\r\r", b"data: [DONE]\n\n")), lines
    else:  # which knows no chunks
        assert body == b"".join(EVENTS)
        assert int(headers[b"content-length"]) == len(body)
        assert b"transfer-encoding" not in headers


def test_an_answer_that_breaks_off_is_an_error_for_an_old_client(raw: tuple[RawBackend, str]) -> None:
    raw[0].answer = CHUNKED + b"3\r\nabc\r\n"
    assert said(raw[1], version="1.0")[0] == 502


def test_the_query_crosses_as_it_is(raw: tuple[RawBackend, str]) -> None:
    raw[0].answer = ANSWER
    query = "a=b%2Bc&d=%20e&f=%0d%0ax&g=h+i;j&k"
    assert said(raw[1], f"/v1/chat/completions?{query}")[0] == 200
    assert raw[0].head.startswith(f"POST /v1/chat/completions?{query} HTTP/1.1\r\n".encode())


def test_no_redirect_to_the_host_that_a_client_names(raw: tuple[RawBackend, str]) -> None:
    status, headers, _ = said(raw[1], "/v1/chat/completions/")
    assert status == 404
    assert b"location" not in headers
