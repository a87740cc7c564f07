"""The proxy as an ASGI application."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipelines.serving.backend import Backend
from pipelines.serving.errors import RequestError
from pipelines.serving.proxy import Proxy
from pipelines.serving.relay import Relay
from pipelines.serving.setup.exports import AUTO
from pipelines.serving.setup.settings import Settings


def create_app(settings: Settings, *, reload_on_hangup: bool = False) -> Starlette:
    """The application, for any ASGI server.

    Args:
        reload_on_hangup: whether SIGHUP reads the exports again; only where the server runs in the main thread.

    Raises:
        ExportsError: the exports cannot be served with these settings.
    """
    proxy = Proxy(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        proxy.backend = Backend(settings)
        await proxy.backend.ask(proxy.router.exports)
        tasks = {asyncio.create_task(proxy.backend.watch(lambda: proxy.router.exports))}
        if reload_on_hangup and hasattr(signal, "SIGHUP"):
            reload = lambda: tasks.add(asyncio.create_task(proxy.reload()))  # noqa: E731
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await proxy.backend.close()

    routes = [
        Route("/v1/chat/completions", Relay(proxy, "chat/completions"), methods=["POST"]),
        Route("/v1/completions", Relay(proxy, "completions"), methods=["POST"]),
        Route("/v1/models", _models),
        Route("/v1/models/{name:path}", _model),
        Route("/healthz", _healthz),
        Route("/readyz", _readyz),
        Route("/metrics", _metrics),
    ]
    handlers = {HTTPException: _http_error, Exception: _error}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)  # type: ignore[arg-type]
    app.router.redirect_slashes = False  # a redirect would repeat the host and scheme that the client sent
    app.state.proxy, app.state.began = proxy, int(time.time())
    return app


def _entries(request: Request) -> list[dict[str, object]]:
    router = request.app.state.proxy.router
    common = {"object": "model", "created": request.app.state.began, "owned_by": "hydralora"}
    domains = router.exports.experts
    return [
        {"id": AUTO, **common},
        *({"id": name, **common, **({"domain": domains[name]} if name in domains else {})} for name in router.models),
    ]


def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": _entries(request)})


def _model(request: Request) -> Response:
    name = request.path_params["name"]
    for entry in _entries(request):
        if entry["id"] == name:
            return JSONResponse(entry)
    models = [str(entry["id"]) for entry in _entries(request)]
    error = f"model: expected one of {', '.join(models)}, got {name[:100]!r}"
    return _said(RequestError(404, error, param="model", code="model_not_found"))


def _healthz(request: Request) -> Response:
    proxy = request.app.state.proxy
    return JSONResponse({"status": "ok", "exports": proxy.router.exports.folder.name, "active": proxy.active})


def _readyz(request: Request) -> Response:
    backend = request.app.state.proxy.backend
    said = {"ready": not backend.problem, "problem": backend.problem, "warning": backend.warning}
    return JSONResponse(said, 503 if backend.problem else 200)


def _metrics(request: Request) -> Response:
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return Response(generate_latest(request.app.state.proxy.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _http_error(request: Request, error: HTTPException) -> Response:
    paths = "/v1/chat/completions, /v1/completions, /v1/models, /healthz, /readyz, /metrics"
    return _said(RequestError(error.status_code, f"{error.detail}: this server has {paths}"), error.headers)


def _error(request: Request, error: Exception) -> Response:
    return _said(RequestError(500, "an error of the proxy; its log says more"))


def _said(error: RequestError, headers: object = None) -> Response:
    return Response(error.body(), error.status, headers=dict(headers or {}), media_type="application/json")  # type: ignore[call-overload]
