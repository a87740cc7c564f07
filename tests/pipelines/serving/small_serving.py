"""Small exports, a backend that remembers what it was asked, and servers in threads."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from analysis.experts.prompt_classifier import PromptClassifier

CATS = [f"how much does the cat number {i} eat" for i in range(30)]
SHIPS = [f"how fast does the ship number {i} sail" for i in range(30)]
CAT, SHIP, UNKNOWN = "how much does a cat eat", "how fast does a ship sail", "zzz"
MODELS = ("cats", "ships", "others")


def small_exports(folder: Path, **serving: Any) -> Path:
    """A folder as `domain_exports` writes it, with empty LoRAs."""
    for name in MODELS:
        (folder / name).mkdir(parents=True)
        (folder / name / "adapter_model.safetensors").touch()
        (folder / name / "adapter_config.json").write_text('{"r": 7, "base_model_name_or_path": "some/base"}')
    classifier = PromptClassifier().fit([*CATS, *SHIPS], ["my cats"] * 30 + ["ships"] * 30)
    classifier.save(folder / "group_model")
    values = {"domains": {"ships": "ships", "my cats": "cats"}, "others": "others", "template": "plain", **serving}
    (folder / "serving.json").write_text(json.dumps(values))
    return folder


class StubBackend:
    """An OpenAI-compatible backend.

    Attributes:
        models: what it lists; `loras` makes it llama.cpp; `root` is where it loaded the model `base` from.
        asked: path, headers and body of each request.
        answer: status, headers and parts of the next answers; None in the parts waits for `go`.
        left: set when a client of a waiting answer leaves.
    """

    def __init__(self) -> None:
        self.models: list[str] = list(MODELS)
        self.loras: list[str] | None = None
        self.root = "some/base"
        self.asked: list[tuple[str, list[tuple[bytes, bytes]], Any]] = []
        self.status, self.headers = 200, [(b"content-type", b"application/json")]
        self.parts: list[bytes | None] = [b'{"ok": 1}']
        self.breaks = False
        self.left, self.go = threading.Event(), threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["method"] == "GET":
            await self.list(scope["path"], send)
            return
        self.asked.append((scope["path"] + "?" + scope["query_string"].decode(), scope["headers"], json.loads(body)))
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        for part in self.parts:
            if part is not None:
                await send({"type": "http.response.body", "body": part, "more_body": True})
                continue
            leaving = asyncio.create_task(receive())
            while not self.go.is_set() and not leaving.done():
                await asyncio.sleep(0.01)
            if leaving.done():
                self.left.set()
            leaving.cancel()
        if not self.breaks:
            await send({"type": "http.response.body", "body": b""})

    async def list(self, path: str, send: Any) -> None:
        adapters = [{"id": i, "path": f"x/{name}.gguf"} for i, name in enumerate(self.loras or ())]
        entries = [{"id": name, "parent": "base"} for name in self.models if name != "base"]
        models = {"data": [*entries, *({"id": name, "root": self.root} for name in self.models if name == "base")]}
        found = {"/v1/models": models, **({} if self.loras is None else {"/lora-adapters": adapters})}.get(path)
        await send({"type": "http.response.start", "status": 200 if found is not None else 404, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(found).encode()})


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(config: uvicorn.Config) -> Iterator[str]:
    """Run a server in a thread; yields its URL."""
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{config.port}"
    finally:
        server.should_exit = True
        thread.join(10)


def chat(*texts: str, model: str = "auto", **more: Any) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(texts)
    return {"model": model, "messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)], **more}


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "hydralora.serving"]


def asked_with(client: httpx.Client, backend: StubBackend) -> Any:
    client.post("/v1/chat/completions", json=chat(CAT))
    return backend.asked[-1][2]


def wait_for(condition: Any, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def raw_socket(url: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])))
    connection.settimeout(10)
    return connection
