"""Runs the proxy under uvicorn."""

import asyncio
import logging
import socket
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pipelines.serving.app import create_app
from pipelines.serving.errors import ExportsError, RequestError
from pipelines.serving.setup.settings import Settings

# Clients and balancers keep idle connections for about a minute.
KEEP_ALIVE = 75
TLS = b"\x16\x03"
"""How a client that speaks TLS begins."""


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress are finished first. SIGHUP reads the exports again.

    Raises:
        ExportsError: the exports cannot be served with these settings.
    """
    try:  # before anything is loaded; uvicorn would say it after its start
        family, *_, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise ExportsError(
            f"cannot listen on {settings.host}, port {settings.port}: {reason}; choose --host and --port"
        ) from None
    app = create_app(settings, reload_on_hangup=True)
    uvicorn.Server(server_config(settings, app)).run()


def server_config(settings: Settings, app: Any) -> uvicorn.Config:
    """How uvicorn runs the proxy."""
    logging.getLogger("hydralora.serving").setLevel(logging.INFO)
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=limited_protocol(settings),
        ws="none",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        backlog=4096,
        log_config=LOG_CONFIG,
    )


def limited_protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP protocol with limits on the head of a request, and errors in the form of OpenAI's API."""

    class LimitedProtocol(HttpToolsProtocol):
        _head_bytes = 0
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_ended()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._deadline is not None and not self._head_bytes and data.startswith(TLS):
                self._refuse(400, "expected HTTP, got TLS; use http://, or put a server for TLS in front")
                return
            super().data_received(data)
            if self._deadline is not None:
                self._head_bytes += len(data)
                if self._head_bytes > settings.max_header_bytes:
                    self._refuse(431, f"expected headers of at most {settings.max_header_bytes} bytes")

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "expected a request in HTTP/1.1; check its headers, content-length and chunks")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._expect_head()

        def on_headers_complete(self) -> None:
            self._head_ended()
            super().on_headers_complete()

        def _expect_head(self) -> None:
            if self._deadline is None:
                late = f"expected the headers within {settings.header_seconds:g} seconds"
                self._deadline = self.loop.call_later(settings.header_seconds, self._refuse, 408, late)

        def _head_ended(self) -> None:
            self._head_bytes = 0
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _refuse(self, status: int, message: str) -> None:
            self._head_ended()
            if not self.transport.is_closing():
                error = RequestError(status, message)
                lines = [b"%s: %s" % header for header in {**dict(error.headers()), b"connection": b"close"}.items()]
                head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode(), *lines, b"", error.body()]
                self.transport.write(b"\r\n".join(head))
                self.transport.close()

    return LimitedProtocol


LOG_CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {
        "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "hydralora.serving": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
    },
}
