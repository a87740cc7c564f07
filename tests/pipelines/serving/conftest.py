"""One proxy over real sockets, in front of a backend that remembers what it was asked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from pipelines.serving.app import create_app
from pipelines.serving.server import server_config
from pipelines.serving.setup.settings import Settings
from tests.pipelines.serving.small_serving import StubBackend, free_port, running, small_exports


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
