"""Settings of a server."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.serving.errors import ExportsError


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        exports: folder of a `domain_exports` artifact, or a folder with exactly one in it.
        backend: URL of the server with the LoRAs, without `/v1`.
        threshold: smallest probability with which a domain is chosen; below it, the fallback answers.
        fallback: the model for prompts of no known domain; None for the `others` of the exports.
        base: the backend's name of the base model, if clients may ask for it.
        conversation_header: a request header that names a conversation.
        max_header_bytes: largest head of a request.
        max_requests: number of requests in progress at a time; more are answered with 503.
        header_seconds, body_seconds: how long a client may take to send head and body.
        connect_seconds: how long the backend may take to accept a connection.
        idle_seconds: how long the backend may be silent before its first byte or between two.
        poll_seconds: how often the backend is asked which LoRAs it has.
        access_log: whether to log a line for each request. No line has a prompt or a key.

    Raises:
        ExportsError: a value is out of range.
    """

    exports: Path
    backend: str
    host: str = "127.0.0.1"
    port: int = 8080
    threshold: float = 0.9
    fallback: str | None = None
    base: str | None = None
    conversation_header: str = "x-hydralora-conversation"
    max_conversations: int = 100_000
    max_body_bytes: int = 4 << 20
    max_header_bytes: int = 64 << 10
    max_requests: int = 2_000
    header_seconds: float = 10
    body_seconds: float = 60
    connect_seconds: float = 5
    idle_seconds: float = 600
    poll_seconds: float = 5
    access_log: bool = True

    def __post_init__(self) -> None:
        url = urlsplit(self.backend)
        if url.scheme not in ("http", "https") or not url.netloc or url.query or url.fragment:
            raise ExportsError(f"backend: expected a URL such as http://localhost:8000, got {self.backend!r}")
        if url.username or url.password:
            raise ExportsError("backend: expected a URL without a password; clients send their own keys")
        object.__setattr__(self, "backend", self.backend.rstrip("/").removesuffix("/v1"))
        object.__setattr__(self, "conversation_header", self.conversation_header.lower())
        if not 0 <= self.threshold <= 1:
            raise ExportsError(f"threshold: expected a probability from 0 to 1, got {self.threshold}")
        if self.base in ("", "auto"):
            raise ExportsError(f"base: expected the backend's name of the base model, got {self.base!r}")
        limits = (name for name in vars(self) if name.startswith("max_") or name.endswith("_seconds"))
        for name in limits:
            if not getattr(self, name) > 0:
                raise ExportsError(f"{name}: expected a positive number, got {getattr(self, name)}")
