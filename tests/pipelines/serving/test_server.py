"""Limits on the head of a request."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.serving.errors import ExportsError
from pipelines.serving.server import serve
from pipelines.serving.setup.settings import Settings
from tests.pipelines.serving.small_serving import StubBackend, raw_socket


@pytest.mark.parametrize("sent", [b"GET /healthz HTTP/1.1\r\nx: ", b""])
def test_slow_heads_are_cut_off(servers: Any, backend: StubBackend, sent: bytes) -> None:
    with raw_socket(servers[1]) as connection:
        connection.sendall(sent)
        began = time.monotonic()
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began < 5


def test_long_heads_are_cut_off(servers: Any, backend: StubBackend) -> None:
    with raw_socket(servers[1]) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        for _ in range(20):
            connection.sendall(b"x: " + b"y" * 1000 + b"\r\n")
            time.sleep(0.001)
        assert connection.recv(1000).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", "expected HTTP, got TLS"),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: -5\r\n\r\n{}", "check its headers, content-length"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "expected a request in HTTP/1.1"),
    ],
)
def test_what_is_not_http_gets_one_error(servers: Any, backend: StubBackend, sent: bytes, told: str) -> None:
    with raw_socket(servers[1]) as connection:
        connection.sendall(sent)
        head, _, body = connection.recv(1000).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    assert told in json.loads(body)["error"]["message"]


def test_a_port_in_use_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as used,
        pytest.raises(ExportsError, match=f"port {used.getsockname()[1]}: Address already in use; choose"),
    ):
        serve(Settings(tmp_path / "none", "http://localhost:1", host="127.0.0.1", port=used.getsockname()[1]))
