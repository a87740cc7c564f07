"""A page in headless Chromium, driven over its DevTools protocol with nothing but a websocket."""

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome")


class Page:
    """One tab; what it logs and asks of the network is kept."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._sent = 0
        self._loaded = False
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Run one protocol command."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=120))
            if message.get("id") == self._sent:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return dict(message["result"])
            self._note(message)

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression; promises are waited for."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def open(self, path: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Open a file at a window size and wait until it has painted."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self._load("Page.navigate", url=path.resolve().as_uri())

    def reload(self) -> None:
        """Open the page again and wait until it has painted."""
        self._load("Page.reload")

    def settle(self) -> None:
        """Wait until the page has drawn twice more."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def mouse(self, kind: str, x: float, y: float) -> None:
        """A mouse event: "mouseMoved", "mousePressed" or "mouseReleased"."""
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)
        self.settle()

    def key(self, key: str) -> None:
        """A key pressed and released."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)
        self.settle()

    def screenshot(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def _load(self, method: str, **parameters: Any) -> None:
        self._loaded = False
        self.call(method, **parameters)
        while not self._loaded:
            self._note(json.loads(self._socket.recv(timeout=120)))
        self.settle()

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message["method"], message["params"]
        if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.complaints.append(json.dumps(parameters)[:500])
        self._loaded = self._loaded or method == "Page.loadEventFired"
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"][:200])


@contextmanager
def chromium_page(profile: Path) -> Iterator[Page]:
    """A fresh tab in a Chromium of its own, which is ended afterwards; skips the test where there is none."""
    connect = pytest.importorskip("websockets.sync.client", reason="needs websockets to drive Chromium").connect
    executable = next(filter(None, map(shutil.which, EXECUTABLES)), None)
    if executable is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    # No sandbox: in containers Chromium mostly runs as root, and it opens only a file we wrote.
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
    command = [executable, *options, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = next(filter(None, (re.search(r"ws://([^/]+)/", line) for line in process.stderr)), None)
            assert found is not None, "Chromium ended without a DevTools address"
            with urllib.request.urlopen(f"http://{found[1]}/json") as response:
                tabs = json.load(response)
            address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            with connect(address, max_size=2**28) as socket:
                page = Page(socket)
                for domain in ("Runtime", "Log", "Page", "Network"):
                    page.call(f"{domain}.enable")
                yield page
        finally:
            process.terminate()
