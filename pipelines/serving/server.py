"""Runs the proxy under uvicorn."""

import asyncio
import logging
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pipelines.serving.app import create_app
from pipelines.serving.setup.settings import Settings

# Clients and balancers keep idle connections for about a minute.
KEEP_ALIVE = 75


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress are finished first. SIGHUP reads the exports again.

    Raises:
        ExportsError: the exports cannot be served with these settings.
    """
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
    """uvicorn's HTTP protocol with limits on the head of a request, which uvicorn itself lacks."""

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
            super().data_received(data)
            if self._deadline is not None:
                self._head_bytes += len(data)
                if self._head_bytes > settings.max_header_bytes:
                    self._refuse(b"431 Request Header Fields Too Large")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._expect_head()

        def on_headers_complete(self) -> None:
            self._head_ended()
            super().on_headers_complete()

        def _expect_head(self) -> None:
            if self._deadline is None:
                late = b"408 Request Timeout"
                self._deadline = self.loop.call_later(settings.header_seconds, self._refuse, late)

        def _head_ended(self) -> None:
            self._head_bytes = 0
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _refuse(self, status: bytes) -> None:
            self._head_ended()
            if not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
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
