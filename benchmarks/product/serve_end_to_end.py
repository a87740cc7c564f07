"""Does a prompt get the answer of its expert, through the proxy, from a real server with real exports?

    pip install --no-deps xllamacpp            # llama.cpp in a wheel
    python benchmarks/product/serve_end_to_end.py outputs/corpora/domain_exports/<fingerprint> --corpora CORPORA

Starts llama.cpp's server on the embedded base model with all exports, and `python -m pipelines.serving` in front.
Held-out prompts of each domain are asked for with `model: auto`, whole and as a stream. Compared with it: what the
backend answers when it is asked directly for the LoRA of the domain that the group model finds, and for the base. The
model is in float32, decoding is greedy.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
from serve_llama_cpp import in_float32, lora_to_gguf
from serve_proxy import started
from transformers import AutoConfig

from analysis.experts.prompt_gates import load_group_model
from hydralora.base_model import embedded_gguf, provision_embedded_base_model
from hydralora.training.outputs.record import environment
from pipelines.serving.setup.exports import Exports

RESULTS = Path(__file__).parents[1] / "results" / "serve_end_to_end.json"
BACKEND, PROXY = 9481, 9482
TOKENS = 16
# The template `plain` of a training, for llama.cpp; newer exports have it as chat_template.jinja.
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}{{ '\\n\\n' }}"


def run_llama_cpp(model: str, adapters: list[str], template: str) -> None:
    """llama.cpp's own HTTP server, in this process until it is ended."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.port = model, BACKEND
    parameters.n_ctx, parameters.n_parallel, parameters.warmup, parameters.verbosity = 2048, 1, False, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.lora_init_without_apply, parameters.use_jinja, parameters.chat_template = True, True, template
    loras = []
    for path in adapters:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = path, 1.0
        loras.append(lora)
    parameters.lora_adapters = loras
    server = xllamacpp.Server(parameters)
    while server:
        time.sleep(1)


def post(port: int, path: str, body: dict[str, Any]) -> tuple[bytes, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read(), answer.headers


def text_of(raw: bytes) -> str:
    """The text of an answer, whole or as a stream of events."""
    if not raw.startswith(b"data:"):
        return str(json.loads(raw)["choices"][0]["message"]["content"])
    events = [line[6:] for line in raw.decode().splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def prompts_of(corpora: Path, domain: str, count: int) -> list[str]:
    table = pl.read_parquet(corpora / f"{domain}_test.parquet").select("instruction", "input")
    joined = table.select(pl.concat_str("instruction", "input", separator="\n\n", ignore_nulls=True)).to_series()
    return joined.filter(joined.str.len_chars() < 800).head(count).to_list()


def measure(exports: Exports, prompts: dict[str, list[str]]) -> list[dict[str, Any]]:
    model = load_group_model(exports.folder / "group_model")
    rows = []
    for domain, texts in prompts.items():
        for prompt in texts:
            request = {
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": TOKENS,
                "temperature": 0,
                "cache_prompt": False,
            }
            auto = {"model": "auto", **request}
            whole, headers = post(PROXY, "chat/completions", auto)
            streamed, _ = post(PROXY, "chat/completions", {**auto, "stream": True})
            [number], [doubt] = model.assign([prompt])
            expected = exports.names[number] if doubt <= 0.1 else exports.others
            scales = {
                name: [{"id": i, "scale": float(other == name)} for i, other in enumerate(exports.models)]
                for name in (expected, "base")
            }
            direct, base = (
                text_of(post(BACKEND, "chat/completions", {**request, "lora": scales[name]})[0])
                for name in (expected, "base")
            )
            rows.append(
                {
                    "domain": domain,
                    "expert": headers["x-hydralora-expert"],
                    "as_analysis": headers["x-hydralora-expert"] == expected,
                    "probability": float(headers["x-hydralora-probability"]),
                    "whole_equal": text_of(whole) == direct,
                    "stream_equal": text_of(streamed) == direct,
                    "base_differs": base != direct,
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", type=Path, help="folder of a domain_exports artifact of real corpora")
    parser.add_argument("--corpora", type=Path, required=True, help="folder of <domain>_test.parquet")
    parser.add_argument("--prompts", type=int, default=6, help="of each domain")
    arguments = parser.parse_args()
    exports = Exports.read(arguments.exports)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", ".")])
    config = AutoConfig.from_pretrained(provision_embedded_base_model())
    own = exports.folder / "chat_template.jinja"
    template = own.read_text() if own.is_file() else PLAIN
    with tempfile.TemporaryDirectory() as scratch:
        adapters = [f"{scratch}/{name}.gguf" for name in exports.models]
        for name, path in zip(exports.models, adapters, strict=True):
            lora_to_gguf(exports.folder / name, config, Path(path))
        base = f"{scratch}/float32.gguf"
        in_float32(embedded_gguf(), Path(base))
        code = f"from serve_end_to_end import run_llama_cpp; run_llama_cpp({base!r}, {adapters!r}, {template!r})"
        proxy = ["-m", "pipelines.serving", str(exports.folder), "--backend", f"http://127.0.0.1:{BACKEND}"]
        with started(["-c", code], BACKEND), started([*proxy, "--port", str(PROXY)], PROXY):
            prompts = {d: prompts_of(arguments.corpora, d, arguments.prompts) for d in exports.experts.values()}
            rows = measure(exports, prompts)
    versions = {name: version(name) for name in ("xllamacpp", "starlette", "uvicorn", "aiohttp")}
    counts = {name: sum(row[name] for row in rows) for name in rows[0] if isinstance(rows[0][name], bool)}
    result = {"requests": len(rows), **counts, "rows": rows, "versions": versions, "environment": environment()}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(len(rows), counts, file=sys.stderr)


if __name__ == "__main__":
    main()
