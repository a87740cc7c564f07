"""Limits on the head of a request."""

import time
from typing import Any

import pytest

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
