"""A reload drops no request, and wrong exports change nothing."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx

from tests.pipelines.serving.small_serving import CAT, StubBackend, chat


def test_reload_keeps_streams_and_wrong_exports_change_nothing(
    client: httpx.Client, backend: StubBackend, servers: Any, exports: Path
) -> None:
    proxy, serving = servers[2].state.proxy, exports / "serving.json"
    loop = proxy.backend.session._loop
    before = serving.read_text()
    backend.parts = [b"1", None, b"2"]
    try:
        with client.stream("POST", "/v1/chat/completions", json=chat(CAT, stream=True)) as answer:
            parts = answer.iter_raw()
            next(parts)
            serving.write_text("{}")
            asyncio.run_coroutine_threadsafe(proxy.reload(), loop).result(20)
            assert proxy.router.exports.others == "others"
            values = json.loads(before)
            serving.write_text(json.dumps({**values, "domains": {"ships": "cats", "my cats": "ships"}}))
            asyncio.run_coroutine_threadsafe(proxy.reload(), loop).result(20)
            backend.go.set()
            assert b"".join(parts) == b"2"
        assert client.post("/v1/chat/completions", json=chat(CAT)).headers["x-hydralora-expert"] == "ships"
    finally:
        serving.write_text(before)
        asyncio.run_coroutine_threadsafe(proxy.reload(), loop).result(20)
    metrics = client.get("/metrics").text
    assert 'hydralora_reloads_total{result="failed"} 1.0' in metrics
    assert 'hydralora_reloads_total{result="done"} 2.0' in metrics
