"""Models are asked for names: a local model without sampling, and a server as OpenAI's API wants it."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import dagster as dg
import pytest
import torch

from pipelines.corpus.naming import KEY, NEW_TOKENS, ask_base_model, ask_endpoint

REQUESTS = {3: [{"role": "user", "content": "Name it."}]}


class Server(BaseHTTPRequestHandler):
    """Answers with the model's name and the key; the model `broken` gets another form of answer."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: Any = {"choices": [{"message": {"content": f"{body['model']} {self.headers['Authorization']}"}}]}
        self.send_response(200 if self.path == "/v1/chat/completions" else 404)
        self.end_headers()
        self.wfile.write(json.dumps({} if body["model"] == "broken" else answer).encode())

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Server)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_a_server_is_asked_with_the_key_of_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "abc")
    assert ask_endpoint(f"{url}/", "small", REQUESTS) == {3: "small Bearer abc"}
    monkeypatch.delenv(KEY)
    assert ask_endpoint(url, "small", REQUESTS) == {3: "small None"}


@pytest.mark.parametrize(("path", "model"), [("", "broken"), ("/v2", "small")])
def test_a_server_that_answers_otherwise_is_an_error_with_a_way_out(url: str, path: str, model: str) -> None:
    with pytest.raises(dg.Failure, match=r"gave no name for a cluster: .* Check url and model"):
        ask_endpoint(url + path, model, REQUESTS)


class Tokenizer:
    """One token a character."""

    eos_token_id = 0

    def __init__(self, chat_template: str | None) -> None:
        self.chat_template = chat_template

    def __call__(self, text: str, return_tensors: str) -> Any:
        ids = torch.tensor([[ord(character) for character in text]])
        return type("Tokens", (dict,), {"to": lambda self, _: self})(input_ids=ids)

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> Any:
        return self(f"<{messages[-1]['content']}>", "pt")

    def decode(self, ids: torch.Tensor, **_: Any) -> str:
        return "".join(map(chr, ids.tolist()))


class Model:
    """Repeats what it is given."""

    device = "cpu"

    def generate(self, input_ids: torch.Tensor, max_new_tokens: int, do_sample: bool, **_: Any) -> torch.Tensor:
        assert (max_new_tokens, do_sample) == (NEW_TOKENS, False)
        return torch.cat([input_ids, input_ids], dim=1)


@pytest.mark.parametrize(("template", "answer"), [("x", "<Name it.>"), (None, "Name it.\n\n")])
def test_a_base_model_answers_with_its_new_tokens(template: str | None, answer: str) -> None:
    assert ask_base_model(Model(), Tokenizer(template), REQUESTS) == {3: answer}
