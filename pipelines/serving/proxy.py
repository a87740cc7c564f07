"""State shared by the requests of one server."""

import asyncio
import logging

from pipelines.serving.backend import ASK_ERRORS, Backend
from pipelines.serving.errors import ExportsError
from pipelines.serving.metrics import Metrics
from pipelines.serving.requests.conversations import Conversations
from pipelines.serving.routing import Decision, Router
from pipelines.serving.setup.exports import Exports
from pipelines.serving.setup.settings import Settings

log = logging.getLogger("hydralora.serving")


class Proxy:
    """The state of one server.

    Attributes:
        router: decides for the exports that are served now. `reload` replaces it at once, between two requests.
        backend: where requests go; set while the server runs.

    Raises:
        ExportsError: the exports cannot be served with these settings.
    """

    backend: Backend

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.active = 0
        self._conversations = Conversations(settings.max_conversations)
        self.router = Router(Exports.read(settings.exports), settings, self._conversations)
        self.router.exports.expert_of("A first prompt compiles the reader of words.")
        self.metrics.active.set_function(lambda: self.active)
        self.metrics.conversations.set_function(lambda: len(self._conversations))
        self.metrics.ready.set_function(lambda: hasattr(self, "backend") and self.backend.addressing is not None)
        self._reloading = asyncio.Lock()

    async def reload(self) -> None:
        """Read the exports again. Requests in progress keep the old ones.

        The old exports stay if the new ones are wrong, or if the backend does not have all of their LoRAs.
        """
        async with self._reloading:
            try:
                exports = await asyncio.to_thread(Exports.read, self.settings.exports)
                router = Router(exports, self.settings, self._conversations)
                addressing = await self.backend.found(exports)
            except (ExportsError, OSError, *ASK_ERRORS) as error:
                self.metrics.reloads.labels("failed").inc()
                log.error("not reloaded, the old exports stay: %s", error)
                return
            self.router = router
            self.backend.set(addressing)
        self.metrics.reloads.labels("done").inc()
        log.info("reloaded %s: %s", exports.folder, ", ".join(exports.models))

    def record(self, endpoint: str, decision: Decision | None, status: int, seconds: float) -> None:
        """Count a request that ended, and log it without its text."""
        if decision is None:
            self.metrics.refused.labels(status).inc()
        else:
            self.metrics.requests.labels(decision.expert, decision.reason, status).inc()
            if decision.probability is not None and decision.reason != "conversation":
                self.metrics.probability.observe(decision.probability)
        if self.settings.access_log:
            expert, reason = (decision.expert, decision.reason) if decision else ("-", "refused")
            log.info("%s %d %s %s %.1f ms", endpoint, status, expert, reason, 1000 * seconds)
