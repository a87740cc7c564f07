"""Reports in a browser: `python -m pipelines.report_server outputs`. Only HTML reports, only to this machine.

The folder also holds the corpus and the adapters. They are not served, nor is anything a link leads to elsewhere.
"""

import http.server
import sys
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

PORT = 3001
_HOSTS = ("localhost", "127.0.0.1")


def reports(root: Path) -> list[str]:
    """Paths of the reports under a folder, relative to it, the newest first; none that a link leads to."""
    root = root.resolve()
    found = [path for path in root.rglob("*.html") if path.is_file() and path.resolve() == path]
    return [str(path.relative_to(root)) for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def server(root: Path, port: int = PORT) -> http.server.ThreadingHTTPServer:
    """A server of the reports under a folder, on the loopback interface."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # Another site's name that leads here would let that site read the reports.
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
            """Say nothing: Dagster's messages share the terminal."""

    return http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    server(Path(sys.argv[1])).serve_forever()
