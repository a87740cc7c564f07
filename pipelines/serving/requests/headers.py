"""Which headers cross the proxy."""

from collections.abc import Iterable

from pipelines.serving.errors import RequestError

Header = tuple[bytes, bytes]
# RFC 9110, section 7.6.1: these belong to one connection.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade".split()
)
# The client library writes these anew.
REWRITTEN = frozenset([b"host", b"content-length", b"expect"])
ONCE = frozenset([b"authorization", b"content-type", b"content-length", b"content-encoding", b"host"])


def checked(headers: Iterable[Header], conversation_header: str) -> dict[bytes, bytes]:
    """Headers that the proxy itself reads, each at most once.

    Raises:
        RequestError: one comes twice, or the body is not plain JSON.
    """
    read = ONCE | {conversation_header.encode()}
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in read:
            if name in found:
                raise RequestError(400, f"header {name.decode()}: expected it once, got it twice")
            found[name] = value
    kind = found.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
    if kind != b"application/json":
        raise RequestError(415, "header content-type: expected application/json")
    if found.get(b"content-encoding", b"identity").lower() != b"identity":
        raise RequestError(415, "header content-encoding: expected a body that is not compressed")
    return found


def for_backend(headers: Iterable[Header], conversation_header: str) -> list[tuple[str, str]]:
    """Headers of a request as they are passed on.

    Raises:
        RequestError: a header is not UTF-8.
    """
    headers = list(headers)
    dropped = HOP_BY_HOP | REWRITTEN | _named_by_connection(headers) | {conversation_header.encode()}
    try:
        return [(name.decode(), value.decode()) for name, value in headers if name not in dropped]
    except UnicodeDecodeError:
        raise RequestError(400, "headers: expected UTF-8") from None


def for_client(headers: Iterable[Header]) -> list[Header]:
    """Headers of the backend's answer as they are passed on."""
    headers = [(name.lower(), value) for name, value in headers]
    dropped = HOP_BY_HOP | _named_by_connection(headers)
    return [(name, value) for name, value in headers if name not in dropped and not name.startswith(b"x-hydralora-")]


def _named_by_connection(headers: Iterable[Header]) -> set[bytes]:
    values = (value for name, value in headers if name == b"connection")
    return {token.strip().lower() for value in values for token in value.split(b",")}
