"""A data set hub small enough to read: the few endpoints that `datasets` calls, over files of a folder.

Run as `python hub_server.py <folder> <dataset id> <commit>`; prints its port. It exists because no hub is reachable
where these tests run: the code path is the real one, the far end is not.
"""

import hashlib
import http.server
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves one data set at one commit."""

    folder: Path
    dataset: str
    commit: str

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        api, files = f"/api/datasets/{self.dataset}", f"/datasets/{self.dataset}/resolve/{self.commit}/"
        if path.startswith(files):
            self._file(self.folder / path.removeprefix(files))
        elif path in (api, f"{api}/revision/{self.commit}"):
            siblings = [{"rfilename": entry["path"]} for entry in self._entries(self.folder.rglob("*"))]
            self._json({"id": self.dataset, "sha": self.commit, "siblings": siblings, "tags": [], "private": False})
        elif path.startswith(f"{api}/tree/{self.commit}"):
            below = path.removeprefix(f"{api}/tree/{self.commit}").strip("/")
            folder, everything = self.folder / below, "recursive=true" in url.query.lower()
            self._json(self._entries(folder.rglob("*") if everything else folder.glob("*")))
        elif path == f"{api}/paths-info/{self.commit}":
            self._json(self._entries(self.folder.rglob("*")))
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound" if "/api/" in path else "EntryNotFound"})

    def _entries(self, paths: Iterable[Path]) -> list[dict[str, object]]:
        entries = []
        for path in sorted(paths):
            data = path.read_bytes() if path.is_file() else b""
            entries.append(
                {
                    "type": "file" if path.is_file() else "directory",
                    "path": path.relative_to(self.folder).as_posix(),
                    "size": len(data),
                    "oid": hashlib.sha1(data).hexdigest(),
                }
            )
        return entries  # type: ignore[return-value]

    def _file(self, path: Path) -> None:
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = path.read_bytes()
        self._send(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": self.commit})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    Hub.folder, Hub.dataset, Hub.commit = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_port, flush=True)
    server.serve_forever()
