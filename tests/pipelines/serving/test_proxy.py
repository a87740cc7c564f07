"""The proxy over real sockets, in front of a backend that remembers what it was asked."""

import asyncio
import gzip
import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from pipelines.serving.app import create_app
from pipelines.serving.server import server_config
from pipelines.serving.setup.settings import Settings
from tests.pipelines.serving.small_serving import CAT, SHIP, UNKNOWN, StubBackend, free_port, running, small_exports

Ask = Any


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_exports(tmp_path_factory.mktemp("exports"), after_prompt="\n\n### cat ###")


@pytest.fixture(scope="module")
def servers(exports: Path) -> Iterator[tuple[StubBackend, str, Any]]:
    backend, port = StubBackend(), free_port()
    stub = uvicorn.Config(backend, port=free_port(), log_level="error", lifespan="off")
    with running(stub) as backend_url:
        limits = {"max_body_bytes": 1 << 20, "max_header_bytes": 20_000, "header_seconds": 1, "body_seconds": 1}
        settings = Settings(exports, backend_url + "/v1/", port=port, base="base", poll_seconds=0.2, **limits)
        backend.models.append("base")
        app = create_app(settings)
        with running(server_config(settings, app)) as url:
            yield backend, url, app


@pytest.fixture
def backend(servers: tuple[StubBackend, str, Any]) -> StubBackend:
    fresh, stub = StubBackend(), servers[0]
    models = [*fresh.models, "base"]
    stub.__dict__.update(fresh.__dict__)
    stub.models = models
    return stub


@pytest.fixture
def client(servers: tuple[StubBackend, str, Any]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=servers[1], timeout=20, trust_env=False) as client:
        yield client


def chat(*texts: str, model: str = "auto", **more: Any) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(texts)
    return {"model": model, "messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)], **more}


@pytest.mark.parametrize(
    ("prompt", "expert", "reason"), [(CAT, "cats", "prompt"), (SHIP, "ships", "prompt"), (UNKNOWN, "others", "unsure")]
)
def test_the_prompt_chooses_the_expert(
    client: httpx.Client, backend: StubBackend, prompt: str, expert: str, reason: str
) -> None:
    answer = client.post("/v1/chat/completions?x=1", json=chat(prompt, n=3, seed=7))
    assert (answer.status_code, answer.content) == (200, b'{"ok": 1}')
    assert answer.headers["x-hydralora-expert"] == expert
    assert answer.headers["x-hydralora-reason"] == reason
    assert 0 < float(answer.headers["x-hydralora-probability"]) <= 1
    path, _, body = backend.asked[-1]
    assert path == "/v1/chat/completions?x=1"
    assert body == {**chat(prompt, n=3, seed=7), "model": expert}
    client.post("/v1/completions", json={"model": "auto", "prompt": prompt})
    assert backend.asked[-1][0] == "/v1/completions?"
    assert backend.asked[-1][2] == {"model": expert, "prompt": prompt}


def test_a_named_model_is_asked_for(client: httpx.Client, backend: StubBackend) -> None:
    for name in ("ships", "others", "base"):
        answer = client.post("/v1/chat/completions", json=chat(CAT, model=name))
        assert answer.headers["x-hydralora-reason"] == "named"
        assert "x-hydralora-probability" not in answer.headers
        assert backend.asked[-1][2]["model"] == name
    tokens = {"model": "ships", "prompt": [1, 2], "echo": None}
    client.post("/v1/completions", json=tokens)
    assert backend.asked[-1][2] == tokens


def test_the_text_that_training_put_around_a_prompt_does_not_count(client: httpx.Client, backend: StubBackend) -> None:
    client.post("/v1/completions", json={"model": "auto", "prompt": UNKNOWN + "\n\n### cat ###"})
    assert backend.asked[-1][2]["model"] == "others"


def test_prompts_of_several_experts_are_refused(client: httpx.Client, backend: StubBackend) -> None:
    assert client.post("/v1/completions", json={"model": "auto", "prompt": [CAT, CAT + " now"]}).status_code == 200
    answer = client.post("/v1/completions", json={"model": "auto", "prompt": [CAT, SHIP]})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == ("prompt: the prompts belong to cats, ships; send a request for each")


def test_headers_cross_but_for_those_of_the_connection(client: httpx.Client, backend: StubBackend) -> None:
    backend.status = 418
    backend.headers = [
        (b"content-type", b"text/plain"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"connection", b"x-hop"),
        (b"x-hop", b"1"),
        (b"x-request-id", b"7"),
        (b"x-hydralora-expert", b"forged"),
    ]
    given = {
        "authorization": "Bearer secret",
        "x-mine": "ü",
        "connection": "keep-alive, x-drop",
        "x-drop": "1",
        "te": "trailers",
        "x-hydralora-conversation": "c",
    }
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    answer = client.post("/v1/chat/completions", json=chat(CAT), headers=raw)
    assert answer.status_code == 418
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert answer.headers.get_list("x-hydralora-expert") == ["cats"]
    assert answer.headers["x-request-id"] == "7"
    assert "x-hop" not in answer.headers
    asked = dict(backend.asked[-1][1])
    assert asked[b"authorization"] == b"Bearer secret"
    assert asked[b"x-mine"] == "ü".encode()
    assert not asked.keys() & {b"x-drop", b"te", b"x-hydralora-conversation"}


def test_compressed_answers_are_not_touched(client: httpx.Client, backend: StubBackend) -> None:
    packed = gzip.compress(b'{"a": "b"}')
    backend.parts, backend.headers = [packed], [(b"content-encoding", b"gzip"), (b"content-type", b"application/json")]
    with client.stream("POST", "/v1/chat/completions", json=chat(CAT)) as answer:
        assert b"".join(answer.iter_raw()) == packed


def test_streams_pass_while_they_come_byte_for_byte(client: httpx.Client, backend: StubBackend) -> None:
    first, second = b'data: {"choices": ["\xc3\xa4"]}\n\n', b": ping\r\ndata:  [DONE]\n\n\n"
    backend.parts, backend.headers = [first, None, second], [(b"content-type", b"text/event-stream; charset=utf-8")]
    with client.stream("POST", "/v1/chat/completions", json=chat(CAT, stream=True)) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["x-hydralora-expert"] == "cats"
        parts = answer.iter_raw()
        assert next(parts) == first  # while the backend waits
        backend.go.set()
        assert b"".join(parts) == second


def test_a_client_that_leaves_ends_the_backends_work(client: httpx.Client, backend: StubBackend) -> None:
    backend.parts = [b"data: 1\n\n", None]
    with client.stream("POST", "/v1/chat/completions", json=chat(CAT, stream=True)) as answer:
        next(answer.iter_raw())
    assert backend.left.wait(5)
    assert "hydralora_client_disconnects_total" in client.get("/metrics").text
    assert wait_for(lambda: client.get("/healthz").json()["active"] == 0)


def test_an_answer_that_breaks_off_is_not_taken_for_whole(client: httpx.Client, backend: StubBackend) -> None:
    backend.parts, backend.breaks = [b"data: 1\n\n"], True
    with pytest.raises(httpx.RemoteProtocolError):
        client.post("/v1/chat/completions", json=chat(CAT, stream=True))


def test_a_conversation_keeps_its_expert(client: httpx.Client, backend: StubBackend) -> None:
    def expert(*texts: str, **headers: str) -> tuple[str, str]:
        answer = client.post("/v1/chat/completions", json=chat(*texts), headers=headers)
        return answer.headers["x-hydralora-expert"], answer.headers["x-hydralora-reason"]

    assert expert(CAT) == ("cats", "prompt")
    assert expert(CAT, "Much.", SHIP * 3) == ("cats", "conversation")
    assert expert(UNKNOWN) == ("others", "unsure")  # which does not stick
    assert expert(UNKNOWN, "Yes?", SHIP) == ("ships", "prompt")
    assert expert(UNKNOWN, "Yes?", SHIP, "Fast.", CAT * 3) == ("ships", "conversation")
    assert expert(UNKNOWN, "Yes?", CAT) == ("cats", "prompt")  # another conversation with the same beginning
    named = {"x-hydralora-conversation": "mine"}
    assert expert(SHIP, **named) == ("ships", "prompt")
    assert expert(CAT, **named) == ("ships", "conversation")
    assert expert(CAT, authorization="Bearer other", **named) == ("cats", "prompt")


def test_models_are_listed(client: httpx.Client, backend: StubBackend) -> None:
    listed = client.get("/v1/models").json()["data"]
    assert [entry["id"] for entry in listed] == ["auto", "ships", "cats", "others", "base"]
    assert listed[2]["domain"] == "my cats"
    assert client.get("/v1/models/cats").json() == listed[2]
    assert client.get("/v1/models/dogs").json()["error"]["code"] == "model_not_found"


WRONG = {
    "no JSON": (b"{", 400, "JSON"),
    "no UTF-8": (b'{"model": "\xff"}', 400, "UTF-8"),
    "UTF-16": ('{"model": "auto"}'.encode("utf-16"), 400, "UTF-8"),
    "a list": (b"[1]", 400, "got a list"),
    "nesting": (b"[" * 100_000, 400, "JSON"),
    "NaN": (b'{"model": "auto", "temperature": NaN}', 400, "NaN"),
    "a huge number": (b'{"model": "cats", "messages": [], "seed": 1e999}', 400, "too large"),
    "many digits": (b'{"model": "cats", "seed": 1' + b"0" * 5000 + b"}", 400, "JSON"),
    "no model": (b'{"messages": []}', 400, "model: expected auto or one of ships, cats, others, base"),
    "a model of a wrong type": (b'{"model": ["auto"]}', 400, "model"),
    "an unknown model": (b'{"model": "dogs"}', 404, "got 'dogs'"),
    "no messages": (b'{"model": "auto"}', 400, "messages: expected a list with a message, got nothing"),
    "messages of a wrong type": (b'{"model": "auto", "messages": {"role": "user"}}', 400, "got an object"),
    "a message of a wrong type": (b'{"model": "auto", "messages": ["hi"]}', 400, "messages[0]: expected an object"),
    "an unknown role": (b'{"model": "auto", "messages": [{"role": "cat", "content": ""}]}', 400, "messages[0].role"),
    "a number": (b'{"model": "auto", "messages": [{"role": "user", "content": 1}]}', 400, "got a number"),
    "nothing to read": (b'{"model": "auto", "messages": [{"role": "user", "content": null}]}', 400, "some text"),
    "only an answer": (b'{"model": "auto", "messages": [{"role": "assistant", "content": "x"}]}', 400, "some text"),
    "a picture": (
        b'{"model": "auto", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}',
        400,
        "only text",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_bodies_get_one_clear_error(client: httpx.Client, backend: StubBackend, name: str) -> None:
    body, status, words = WRONG[name]
    answer = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert not backend.asked


@pytest.mark.parametrize("prompt", [None, "", " ", [], [1, 2], [[1]], [CAT, None], {"a": 1}, [""]])
def test_prompts_that_cannot_be_read(client: httpx.Client, backend: StubBackend, prompt: Any) -> None:
    answer = client.post("/v1/completions", json={"model": "auto", "prompt": prompt})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")


def test_parts_tools_and_lone_surrogates_are_read(client: httpx.Client, backend: StubBackend) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weigh", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "\ud800 " + CAT}, {"type": "text", "text": CAT}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": CAT},
    ]
    body = json.dumps({"model": "auto", "messages": messages}).encode()
    answer = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.headers["x-hydralora-expert"] == "cats"
    assert backend.asked[-1][2]["messages"] == messages


def test_large_bodies(client: httpx.Client, backend: StubBackend) -> None:
    long = chat(f"{CAT}. " * 5_000)
    assert client.post("/v1/chat/completions", json=long).headers["x-hydralora-expert"] == "cats"
    answer = client.post("/v1/chat/completions", json=chat("x" * (1 << 20)))
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")

    def parts() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    answer = client.post("/v1/chat/completions", content=parts(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("authorization", "a"), ("authorization", "b")], 400),
        ([("content-type", "text/plain")], 415),
        ([("content-encoding", "gzip")], 415),
        ([("x-hydralora-conversation", "a"), ("x-hydralora-conversation", "b")], 400),
        ([("x-bytes", b"\xff")], 400),
    ],
)
def test_wrong_headers(client: httpx.Client, backend: StubBackend, headers: Any, status: int) -> None:
    kind = [] if headers[0][0] == "content-type" else [("content-type", "application/json")]
    answer = client.post("/v1/chat/completions", content=json.dumps(chat(CAT)).encode(), headers=[*kind, *headers])
    assert answer.status_code == status, answer.text
    assert "header" in answer.json()["error"]["message"]


def test_an_error_of_ours_is_said_and_logged_without_the_text(
    client: httpx.Client, backend: StubBackend, servers: Any, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    def fail(*_: Any) -> Any:
        raise LookupError("Hush")

    monkeypatch.setattr(servers[2].state.proxy.router, "decide", fail)
    logger = logging.getLogger("hydralora.serving")
    logger.addHandler(caplog.handler)
    try:
        answer = client.post("/v1/chat/completions", json=chat("Hush"))
        assert wait_for(lambda: len(lines(caplog)) >= 2)
    finally:
        logger.removeHandler(caplog.handler)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "LookupError in the proxy" in caplog.text
    assert "Hush" not in "".join(lines(caplog)).replace('"Hush"', "")


def test_other_paths_and_methods(client: httpx.Client, backend: StubBackend) -> None:
    for answer, status in ((client.post("/v1/embeddings"), 404), (client.get("/v1/completions"), 405)):
        assert answer.status_code == status
        assert "/v1/chat/completions" in answer.json()["error"]["message"]


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


def test_slow_bodies_are_cut_off(servers: Any, backend: StubBackend) -> None:
    with raw_socket(servers[1]) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_logs_and_metrics_have_no_text_of_the_client(
    client: httpx.Client, backend: StubBackend, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("hydralora.serving")
    logger.addHandler(caplog.handler)
    try:
        for text in (f"{CAT} Hush", UNKNOWN + "Hush"):
            client.post("/v1/chat/completions", json=chat(text), headers={"authorization": "Bearer Hush"})
        client.post("/v1/chat/completions", json=chat(CAT, model="Hush"))
        assert wait_for(lambda: len(lines(caplog)) >= 3)
    finally:
        logger.removeHandler(caplog.handler)
    assert lines(caplog)[0].startswith("chat/completions 200 cats prompt ")
    metrics = client.get("/metrics").text
    assert "Hush" not in caplog.text + metrics
    assert 'hydralora_requests_total{expert="cats",reason="prompt",status="200"}' in metrics
    assert "hydralora_backend_ready 1.0" in metrics


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
