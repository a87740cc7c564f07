"""Errors in the form of OpenAI's API."""

import json


class ExportsError(ValueError):
    """The exports, or a setting, cannot be served; the message tells what to do."""


class RequestError(Exception):
    """A request that is not passed on.

    Attributes:
        status: HTTP status.
        message: what was expected and what came. It is sent to the client and not logged, as it may quote the request.
        code: a word for programs.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> bytes:
        """JSON of OpenAI's shape: an object `error` with message, type, param and code."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of the answer. The connection is closed if the body may be only half read."""
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(self.body())).encode())]
        if self.status in (408, 413, 503):
            headers.append((b"connection", b"close"))
        if self.status == 503:
            headers.append((b"retry-after", b"1"))
        return headers
