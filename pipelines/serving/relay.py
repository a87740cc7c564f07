"""Passes one request on and its answer back, byte for byte.

This is plain ASGI: Starlette's request and response classes would use up a third of the time that the proxy may add.
"""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

import aiohttp
from starlette.types import Receive, Scope, Send
from yarl import URL

from pipelines.serving.errors import RequestError
from pipelines.serving.proxy import Proxy
from pipelines.serving.requests import headers as crossing
from pipelines.serving.requests.prompts import parse
from pipelines.serving.routing import Decision, Endpoint

# A prompt this long takes milliseconds to read, so a thread reads it.
LONG_BODY = 32 << 10
log = logging.getLogger("hydralora.serving")


class ClientLeft(Exception):
    """The client closed the connection."""


@dataclass
class Passing:
    """Facts about a request in progress."""

    decision: Decision | None = None
    status: int = 0
    started: bool = False


class Relay:
    """The ASGI application of one endpoint."""

    def __init__(self, proxy: Proxy, endpoint: Endpoint) -> None:
        self._proxy, self._endpoint = proxy, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        proxy, passing, began = self._proxy, Passing(), perf_counter()
        proxy.active += 1
        try:
            await self._answer(scope, receive, send, passing)
        except ClientLeft:
            passing.status = 499  # as nginx calls it
            proxy.metrics.disconnects.inc()
        except RequestError as error:
            await self._refuse(send, passing, error)
        except Exception as error:
            # Without its message, which may quote the request.
            log.error("%s in the proxy:\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            if not passing.started:
                await self._refuse(send, passing, RequestError(500, "an error of the proxy; its log says more"))
        finally:
            proxy.active -= 1
            proxy.record(self._endpoint, passing.decision, passing.status, perf_counter() - began)

    async def _refuse(self, send: Send, passing: Passing, error: RequestError) -> None:
        passing.status, passing.started = error.status, True
        await send({"type": "http.response.start", "status": error.status, "headers": error.headers()})
        await send({"type": "http.response.body", "body": error.body()})

    async def _answer(self, scope: Scope, receive: Receive, send: Send, passing: Passing) -> None:
        proxy = self._proxy
        if proxy.active > proxy.settings.max_requests:
            raise RequestError(503, f"{proxy.settings.max_requests} requests are at work; try again")
        read = crossing.checked(scope["headers"], proxy.settings.conversation_header)
        body = await self._body(receive, read.get(b"content-length"))
        began = perf_counter()
        if len(body) > LONG_BODY:
            payload, passing.decision = await asyncio.to_thread(self._addressed, body, read)
        else:
            payload, passing.decision = self._addressed(body, read)
        proxy.metrics.decision.observe(perf_counter() - began)
        onward = crossing.for_backend(scope["headers"], proxy.settings.conversation_header)
        query = scope["query_string"].decode("latin-1")
        # HTTP/1.0 has no chunks, so a body without a length must be complete before its head is sent.
        whole = scope["http_version"] == "1.0"
        await self._forward(receive, send, payload, onward, query, passing, whole)

    def _addressed(self, body: bytes, read: dict[bytes, bytes]) -> tuple[bytes, Decision]:
        """The body that the backend gets, and the decision in it."""
        proxy, request = self._proxy, parse(body)
        name = read.get(proxy.settings.conversation_header.encode())
        decision = proxy.router.decide(self._endpoint, request, name, read.get(b"authorization", b""))
        return proxy.backend.payload(request, decision.expert), decision

    async def _body(self, receive: Receive, length: bytes | None) -> bytes:
        limit = self._proxy.settings.max_body_bytes
        too_large = RequestError(413, f"expected a body of at most {limit} bytes")
        if length is not None and (not length.isdigit() or int(length) > limit):
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._proxy.settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeft
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise too_large
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise RequestError(408, f"expected the body within {self._proxy.settings.body_seconds:g} seconds") from None

    async def _forward(
        self,
        receive: Receive,
        send: Send,
        payload: bytes,
        headers: list[tuple[str, str]],
        query: str,
        passing: Passing,
        whole: bool,
    ) -> None:
        """Ask the backend, and pass its answer on while it comes, or once it is `whole`."""
        proxy, began = self._proxy, perf_counter()
        url = proxy.backend.urls[self._endpoint]
        url = URL(f"{url}?{query}", encoded=True) if query else url
        try:
            async with (
                stopped_if_client_leaves(receive),
                proxy.backend.session.post(url, data=payload, headers=headers, allow_redirects=False) as answer,
            ):
                proxy.metrics.first_byte.observe(perf_counter() - began)
                if not 200 <= answer.status < 600:
                    raise RequestError(502, f"expected a status of HTTP from the backend, got {answer.status}")
                sent = [*crossing.for_client(answer.raw_headers), *decision_headers(passing.decision)]
                body = b""
                if whole and "content-length" not in answer.headers and answer.status not in (204, 304):
                    body = await answer.read()
                    sent.append((b"content-length", str(len(body)).encode()))
                passing.status, passing.started = answer.status, True
                await send({"type": "http.response.start", "status": answer.status, "headers": sent})
                if body:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                async for part in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": part, "more_body": True})
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            proxy.backend.lost()
            late, spoke = isinstance(error, TimeoutError), isinstance(error, aiohttp.ClientResponseError)
            if passing.started:
                # Send no end: the server then closes the connection, and the client sees that the answer is incomplete.
                log.warning("the backend broke off an answer: %s", type(error).__name__)
                return
            what = "did not answer in time" if late else "sent invalid HTTP" if spoke else "cannot be reached"
            raise RequestError(504 if late else 502, f"the backend {what} ({type(error).__name__})") from None
        await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def stopped_if_client_leaves(receive: Receive) -> AsyncIterator[None]:
    """Stop the block, and with it the backend's work, if the client closes the connection.

    Raises:
        ClientLeft: it did.
    """
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
        if left:
            await asyncio.sleep(0)  # the cancellation arrives here
    except asyncio.CancelledError:
        if not left:
            raise
        task.uncancel()
        raise ClientLeft from None
    finally:
        watcher.cancel()


def decision_headers(decision: Decision | None) -> list[tuple[bytes, bytes]]:
    """Headers that tell the client which model answers, why, and with which probability."""
    if decision is None:
        return []
    headers = [(b"x-hydralora-expert", decision.expert.encode()), (b"x-hydralora-reason", decision.reason.encode())]
    if decision.probability is not None:
        headers.append((b"x-hydralora-probability", f"{decision.probability:.4f}".encode()))
    return headers
