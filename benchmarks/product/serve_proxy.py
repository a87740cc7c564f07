"""What the proxy adds to a request, and how many streams it holds.

    python benchmarks/product/serve_proxy.py outputs/quickstart/domain_exports/<fingerprint>

The backend is a stub in a process of its own that answers at once (latency) or streams slowly (streams), so everything
that is measured is the proxy's. Direct requests and requests through the proxy alternate on warm connections. Time of
the proxy's processor is read from /proc, which other work on the machine does not change much. Linux only.
"""

import argparse
import asyncio
import http.client
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parents[1] / "results" / "serve_proxy.json"
STUB, PROXY = 9471, 9472
ANSWER = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "42"}}]}).encode()
SENTENCE = "Natalia sold 48 clips in April and half as many in May. How many clips did she sell altogether? "
PROMPTS = {"100 characters": SENTENCE, "2,000 characters": SENTENCE * 20, "20,000 characters": SENTENCE * 200}
HEADERS = {"content-type": "application/json", "authorization": "Bearer some-key"}
FILES = 20_000


def stub(models: list[str], parts: int, pause: float) -> Any:
    """A backend: `stream` in the request gives `parts` events with a pause before each."""
    listed = json.dumps({"data": [{"id": name} for name in models]}).encode()
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "a word"}}]}\n\n'

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        stream = b'"stream": true' in body
        answer = listed if scope["method"] == "GET" else ANSWER
        kind = (b"content-type", b"text/event-stream" if stream else b"application/json")
        length = [] if stream else [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": [kind, *length]})
        for _ in range(parts if stream else 0):
            await asyncio.sleep(pause)
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n" if stream else answer})

    return app


def run_stub(models: list[str], parts: int, pause: float) -> None:
    import uvicorn

    uvicorn.run(stub(models, parts, pause), port=STUB, log_level="error", lifespan="off", backlog=4096)


@contextmanager
def started(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, *command])
    try:
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port)
                connection.request("GET", "/v1/models")
                connection.getresponse().read()
                break
            except OSError:
                assert process.poll() is None, command
                time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait()


def processor_seconds(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(process: subprocess.Popen[bytes], field: str = "VmRSS") -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def body(prompt: str, **more: Any) -> bytes:
    return json.dumps({"model": "auto", "messages": [{"role": "user", "content": prompt}], **more}).encode()


def latency(proxy: subprocess.Popen[bytes], prompt: str, requests: int) -> dict[str, float]:
    """Milliseconds of alternating requests, and the proxy's processor time for each."""
    connections = {
        name: http.client.HTTPConnection("127.0.0.1", port) for name, port in (("direct", STUB), ("proxy", PROXY))
    }
    seconds: dict[str, list[float]] = {name: [] for name in connections}
    sent = body(prompt)
    before = processor_seconds(proxy)
    for _ in range(requests):
        for name, connection in connections.items():
            began = time.perf_counter()
            connection.request("POST", "/v1/chat/completions", sent, HEADERS)
            answer = connection.getresponse()
            assert answer.read() == ANSWER
            assert answer.status == 200
            seconds[name].append(time.perf_counter() - began)
    used = (processor_seconds(proxy) - before) / requests
    direct, through = (1000 * np.array(seconds[name][requests // 10 :]) for name in ("direct", "proxy"))
    return {
        "direct_median_ms": float(np.median(direct)),
        "proxy_median_ms": float(np.median(through)),
        "added_median_ms": float(np.median(through - direct)),
        "added_p90_ms": float(np.quantile(through - direct, 0.9)),
        "processor_ms": 1000 * used,
    }


async def streams(port: int, count: int) -> dict[str, float]:
    """Hold `count` streams at once; time to the first byte, and whether each came whole."""
    sent = body(SENTENCE, stream=True)
    head = "".join(f"{name}: {value}\r\n" for name, value in {**HEADERS, "content-length": len(sent)}.items())
    request = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n".encode() + sent
    at_once, most = 0, 0

    async def one() -> tuple[float, float, bool]:
        nonlocal at_once, most
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        status = await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"data:")
        first = time.perf_counter() - began
        at_once += 1
        most = max(most, at_once)
        rest = await reader.read(-1)
        at_once -= 1
        writer.close()
        return first, time.perf_counter() - began, status.startswith(b"HTTP/1.1 200") and b"[DONE]" in rest

    began = time.perf_counter()
    done = await asyncio.gather(*(one() for _ in range(count)))
    first, whole, complete = zip(*done, strict=True)
    return {
        "complete": sum(complete),
        "most_at_once": most,
        "first_byte_median_s": float(np.median(first)),
        "first_byte_worst_s": max(first),
        "stream_median_s": float(np.median(whole)),
        "all_s": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", type=Path, help="folder of a domain_exports artifact")
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--parts", type=int, default=60)
    parser.add_argument("--pause", type=float, default=0.5)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, max(FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    serving = json.loads((arguments.exports / "serving.json").read_text())
    models = [*serving["domains"].values(), serving["others"]]
    code = f"from serve_proxy import run_stub; run_stub({models!r}, {arguments.parts}, {arguments.pause})"
    sys.path.insert(0, str(Path(__file__).parent))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", ".")])
    command = ["-m", "pipelines.serving", str(arguments.exports), "--backend", f"http://127.0.0.1:{STUB}"]
    with (
        started(["-c", code], STUB) as backend,
        started([*command, "--port", str(PROXY), "--no-access-log"], PROXY) as proxy,
    ):
        result: dict[str, Any] = {"memory_mib": {"idle": memory_mib(proxy)}, "latency": {}, "streams": {}}
        for name, prompt in PROMPTS.items():
            requests = arguments.requests // (10 if len(prompt) > 10_000 else 1)
            result["latency"][name] = [latency(proxy, prompt, requests) for _ in range(arguments.repeats)]
            print(name, result["latency"][name], flush=True)
        for name, port in (("direct", STUB), ("proxy", PROXY)):
            before = processor_seconds(proxy), processor_seconds(backend)
            found = asyncio.run(streams(port, arguments.streams))
            used = processor_seconds(proxy) - before[0], processor_seconds(backend) - before[1]
            result["streams"][name] = {**found, "proxy_processor_s": used[0], "backend_processor_s": used[1]}
            print(name, result["streams"][name], flush=True)
        result["memory_mib"]["most"] = memory_mib(proxy, "VmHWM")
    shape = {name: getattr(arguments, name) for name in ("requests", "streams", "parts", "pause")}
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()}
    RESULTS.write_text(json.dumps({**result, **shape, "machine": machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
