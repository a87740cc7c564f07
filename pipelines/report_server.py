"""Serve HTML reports to browsers on this machine: `python -m pipelines.report_server outputs`.

The folder also holds the corpus and the adapters. These are not served, and symbolic links are not followed.
"""

import http.server
import sys
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

PORT = 3001
_HOSTS = ("localhost", "127.0.0.1")


def reports(root: Path) -> list[str]:
    """Paths of the reports below `root`, relative to it, newest first. Symbolic links are excluded."""
    root = root.resolve()
    found = [path for path in root.rglob("*.html") if path.is_file() and path.resolve() == path]
    return [str(path.relative_to(root)) for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def server(root: Path, port: int = PORT) -> http.server.ThreadingHTTPServer:
    """An HTTP server for the reports below `root`, on the loopback interface."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # DNS rebinding: a foreign host name that resolves to this machine would let that site read the reports.
            if (self.headers.get("Host") or "").rpartition(":")[0] not in _HOSTS:
                self.send_error(403, "Expected localhost as the host")
                return
            path = unquote(urlsplit(self.path).path).lstrip("/")
            known = reports(root)
            if path == "":
                self._send("".join(f'<li><a href="/{quote(name)}">{quote(name)}</a></li>' for name in known).encode())
            elif path in known:
                self._send((root / path).read_bytes())
            else:
                self.send_error(404, "No such report")

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing, because Dagster logs to the same terminal."""

    return http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    server(Path(sys.argv[1])).serve_forever()
