"""A backend that is away, silent, or without the LoRAs."""

from pathlib import Path

import httpx
import pytest
import uvicorn

from pipelines.serving.app import create_app
from pipelines.serving.backend import is_named
from pipelines.serving.server import server_config
from pipelines.serving.setup.settings import Settings
from tests.pipelines.serving.small_serving import (
    CAT,
    StubBackend,
    asked_with,
    chat,
    free_port,
    lines,
    running,
    wait_for,
)


def test_a_backend_without_the_loras_is_not_asked(client: httpx.Client, backend: StubBackend) -> None:
    backend.models = ["ships", "base"]
    assert wait_for(lambda: client.get("/readyz").status_code == 503)
    answer = client.post("/v1/chat/completions", json=chat(CAT))
    assert answer.status_code == 503
    assert "does not have cats, others" in answer.json()["error"]["message"]
    assert not backend.asked
    assert client.get("/healthz").status_code == 200
    backend.loras = ["others", "cats", "ships"]  # now as llama.cpp has them
    assert wait_for(lambda: client.get("/readyz").status_code == 200)
    client.post("/v1/chat/completions", json=chat(CAT))
    scales = [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}, {"id": 2, "scale": 0.0}]
    assert backend.asked[-1][2]["lora"] == scales
    client.post("/v1/chat/completions", json=chat(CAT, model="base"))
    assert [lora["scale"] for lora in backend.asked[-1][2]["lora"]] == [0, 0, 0]
    backend.loras = None
    backend.models = ["ships", "cats", "others", "base"]
    assert wait_for(lambda: "lora" not in asked_with(client, backend))


def test_a_backend_with_another_base_is_told(
    client: httpx.Client, backend: StubBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.root = "some/base-instruct"
    assert wait_for(lambda: client.get("/readyz").json()["warning"])
    assert client.get("/readyz").status_code == 200
    told = "the LoRAs were trained on some/base, and the backend serves some/base-instruct; if its weights are"
    assert [told in line for line in lines(caplog)] == [True]
    backend.root = "/models/base"
    assert wait_for(lambda: not client.get("/readyz").json()["warning"])


@pytest.mark.parametrize(
    ("root", "same"),
    [
        ("org/Name-1B", True),
        ("/data/name-1b/", True),
        ("/cache/models--org--Name-1B/snapshots/0a1b", True),
        ("org/Name-1B-Instruct", False),
        ("/data/model", False),
    ],
)
def test_names_of_one_model(root: str, same: bool) -> None:
    assert is_named(root, "org/Name-1B") == same


def test_no_backend_and_too_many_requests(exports: Path) -> None:
    port = free_port()
    settings = Settings(exports, f"http://127.0.0.1:{free_port()}", port=port, max_requests=1, poll_seconds=30)
    app = create_app(settings)
    with running(server_config(settings, app)) as url, httpx.Client(base_url=url, trust_env=False) as client:
        answer = client.post("/v1/chat/completions", json=chat(CAT))
        assert answer.status_code == 503
        assert "does not answer" in answer.json()["error"]["message"]
        app.state.proxy.backend.set(type("Any", (), {"address": lambda self, body, model: None})())
        answer = client.post("/v1/chat/completions", json=chat(CAT))
        assert answer.status_code == 502
        assert answer.json()["error"]["type"] == "server_error"
        app.state.proxy.active = 1
        answer = client.post("/v1/chat/completions", json=chat(CAT))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "1 requests are at work" in answer.json()["error"]["message"]


def test_a_silent_backend_is_given_up(exports: Path) -> None:
    backend, port = StubBackend(), free_port()
    backend.parts = [b"1", None]
    stub = uvicorn.Config(backend, port=free_port(), log_level="error", lifespan="off")
    with running(stub) as backend_url:
        settings = Settings(exports, backend_url, port=port, idle_seconds=0.3)
        with (
            running(server_config(settings, create_app(settings))) as url,
            httpx.Client(base_url=url, trust_env=False) as client,
            pytest.raises(httpx.RemoteProtocolError),
        ):
            client.post("/v1/chat/completions", json=chat(CAT))
        backend.go.set()
