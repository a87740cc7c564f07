"""What the proxy answers itself."""

import httpx

from tests.pipelines.serving.small_serving import StubBackend


def test_models_are_listed(client: httpx.Client, backend: StubBackend) -> None:
    listed = client.get("/v1/models").json()["data"]
    assert [entry["id"] for entry in listed] == ["auto", "ships", "cats", "others", "base"]
    assert listed[2]["domain"] == "my cats"
    assert client.get("/v1/models/cats").json() == listed[2]
    assert client.get("/v1/models/dogs").json()["error"]["code"] == "model_not_found"


def test_other_paths_and_methods(client: httpx.Client, backend: StubBackend) -> None:
    for answer, status in ((client.post("/v1/embeddings"), 404), (client.get("/v1/completions"), 405)):
        assert answer.status_code == status
        assert "/v1/chat/completions" in answer.json()["error"]["message"]
