"""The server with the LoRAs: how a request names one, and the connections to it."""

import asyncio
import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import aiohttp
from yarl import URL

from pipelines.serving.errors import RequestError
from pipelines.serving.setup.exports import Exports
from pipelines.serving.setup.settings import Settings

KEY = "HYDRALORA_BACKEND_KEY"
"""Environment variable with the key for the proxy's own requests; those of clients carry their own keys."""
ASK_SECONDS = 10
log = logging.getLogger("hydralora.serving")


class BackendMismatch(Exception):
    """The backend does not have the LoRAs; the message says which are missing."""


ASK_ERRORS = (BackendMismatch, aiohttp.ClientError, TimeoutError, ValueError)
"""Errors of a request to the backend."""


@dataclass(frozen=True)
class ByName:
    """LoRAs are models of the backend, as in vLLM."""

    def address(self, body: dict[str, Any], model: str) -> None:
        """Let a request name a model."""
        body["model"] = model


@dataclass(frozen=True)
class ByNumber:
    """A request sets the scale of each LoRA by its number, as in llama.cpp."""

    numbers: Mapping[str, int]
    base: str | None

    def address(self, body: dict[str, Any], model: str) -> None:
        """Let a request name a model; the base has no number, so every scale is 0.

        Raises:
            RequestError: the model has no number.
        """
        if model != self.base and model not in self.numbers:
            raise RequestError(503, f"not ready: the backend has no {model}")
        body["model"] = model
        body["lora"] = [{"id": number, "scale": float(name == model)} for name, number in self.numbers.items()]


class Backend:
    """Connections to the backend, and the LoRAs that it had when it was last asked.

    Attributes:
        addressing: how a request names a LoRA; None while it is unknown.
        problem: why it is unknown, in words.
        warning: what is odd about a backend that has every LoRA.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked = asyncio.Event()
        self.addressing: ByName | ByNumber | None = None
        self.problem, self.warning = "the backend was not reached yet", ""
        self.urls = {path: URL(f"{settings.backend}/v1/{path}") for path in ("chat/completions", "completions")}
        timeout = aiohttp.ClientTimeout(None, sock_connect=settings.connect_seconds, sock_read=settings.idle_seconds)
        self.session = aiohttp.ClientSession(
            # A backend closes idle connections after some seconds (uvicorn and llama.cpp after 5); close earlier.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3),
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()

    def payload(self, body: dict[str, Any], model: str) -> bytes:
        """The body of a request, with its model named.

        Raises:
            RequestError: it is unknown how to name it, or the body has a number that JSON does not allow.
        """
        if self.addressing is None:
            raise RequestError(503, f"not ready: {self.problem}")
        self.addressing.address(body, model)
        try:
            return json.dumps(body, allow_nan=False).encode()
        except (ValueError, RecursionError):
            raise RequestError(400, "expected a body of JSON, got a number too large or objects too deep") from None

    def lost(self) -> None:
        """Handle a lost connection. The next backend may number its LoRAs differently, so ask for the numbers."""
        if isinstance(self.addressing, ByNumber):
            self.addressing, self.problem = None, "the connection to the backend was lost"
        self._asked.set()

    async def watch(self, exports: Callable[[], Exports]) -> None:
        """Ask the backend again and again which LoRAs it has."""
        while True:
            await self.ask(exports())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._settings.poll_seconds)
            if self._asked.is_set():
                self._asked.clear()
                await asyncio.sleep(0.2)

    async def ask(self, exports: Exports) -> None:
        """Ask once; sets `addressing` and `problem`."""
        try:
            self.set(await self.found(exports))
        except BackendMismatch as error:
            self.set(None, str(error))
        except ASK_ERRORS as error:
            # A backend that restarts keeps the names of its LoRAs; their numbers may change.
            what = f"the backend does not answer ({type(error).__name__})"
            self.set(self.addressing if isinstance(self.addressing, ByName) else None, what)

    def set(self, addressing: ByName | ByNumber | None, problem: str = "") -> None:
        """Set both attributes, and log a change."""
        if problem != self.problem:
            # Clients see the problem, so the address is in the log only.
            level, text = (logging.WARNING, problem) if problem else (logging.INFO, "the backend has every LoRA")
            log.log(level, "%s: %s", self._settings.backend, text)
        self.addressing, self.problem = addressing, problem

    async def found(self, exports: Exports) -> ByName | ByNumber:
        """How the backend lets a request name the LoRAs; warns if they were trained on another base.

        Raises:
            BackendMismatch: it does not have all of them.
            ASK_ERRORS: it does not answer, or not in JSON.
        """
        listed = await self._get("/v1/models")
        models = {
            entry.get("id"): entry for entry in _objects(listed.get("data") if isinstance(listed, dict) else None)
        }
        wanted = {*exports.models, *([self._settings.base] if self._settings.base else [])}
        if wanted <= set(models):
            self._compare_bases(exports, models)
            return ByName()
        adapters = _objects(await self._get("/lora-adapters"))
        numbers = {PurePath(str(entry.get("path"))).stem: entry.get("id") for entry in adapters}
        if set(exports.models) <= set(numbers) and len(numbers) == len(adapters):
            return ByNumber({name: int(str(number)) for name, number in numbers.items()}, self._settings.base)
        missing = sorted(set(exports.models) - set(numbers) if adapters else wanted - set(models))
        raise BackendMismatch(
            f"the backend does not have {', '.join(missing)}; start it as "
            "`hydralora serve EXPORTS --print-config vllm` (or llama.cpp) prints"
        )

    def _compare_bases(self, exports: Exports, models: Mapping[Any, dict[str, Any]]) -> None:
        """Warn once if the LoRAs' parent, as vLLM lists it, was loaded from a model of another name."""
        parents = {models[name].get("parent") for name in exports.models}
        roots = {str(models[parent].get("root") or "") for parent in parents if parent in models} - {""}
        others = [root for root in sorted(roots) if not is_named(root, exports.base)]
        warning = (
            f"the LoRAs were trained on {exports.base}, and the backend serves {', '.join(others)}; if its weights are "
            "others, answers are wrong"
        ) * bool(others)
        if warning and warning != self.warning:
            log.warning("%s: %s", self._settings.backend, warning)
        self.warning = warning

    async def _get(self, path: str) -> Any:
        key = os.environ.get(KEY)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
        async with self.session.get(self._settings.backend + path, headers=headers, timeout=timeout) as answer:
            if answer.status in (401, 403):
                raise BackendMismatch(f"the backend wants a key; set {KEY} to one")
            if answer.status == 404:
                return None
            answer.raise_for_status()
            return json.loads(await answer.read())


def is_named(root: str, base: str) -> bool:
    """Whether the path or hub id `root` ends in the name of a base model, or is its folder in the hub's cache."""
    parts = re.split(r"/|--", root.rstrip("/").lower())
    return base.rstrip("/").lower().rsplit("/", 1)[-1] in parts


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
