"""Which expert a request gets."""

import httpx
import pytest

from tests.pipelines.serving.small_serving import CAT, SHIP, UNKNOWN, StubBackend, chat


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
