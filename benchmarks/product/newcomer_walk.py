"""From an empty folder to an answer of the right expert: every command a newcomer types, with its time.

    pip install --no-deps xllamacpp            # llama.cpp in a wheel, as the backend
    python benchmarks/product/newcomer_walk.py --corpora ../shared/corpora

Builds the wheel of this tree, makes a virtual environment that borrows the dependencies of this one, and writes three
JSON lines files in three shapes. Then it types `hydralora analyze`, `init`, `run` and `serve` in that environment, in
front of llama.cpp with the exports. Held-out prompts ask for `model: auto`: each must get the expert of its source, and
the text that the backend gives when it is asked for that expert directly.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
from serve_end_to_end import BACKEND, PROXY, post, text_of
from serve_llama_cpp import in_float32, lora_to_gguf
from transformers import AutoConfig

from hydralora.base_model import embedded_gguf, provision_embedded_base_model
from hydralora.training.outputs.record import environment

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results" / "newcomer_walk.json"
Row = dict[str, Any]
SHAPES: dict[str, tuple[str, Callable[[Row], Row]]] = {
    "general": (
        "dolly15k",
        lambda row: {"instruction": row["instruction"], "input": row["input"], "output": row["output"]},
    ),
    "math": ("gsm8k", lambda row: {"question": row["instruction"], "answer": row["output"]}),
    "health": (
        "medquad",
        lambda row: {
            "messages": [
                {"role": "user", "content": row["instruction"]},
                {"role": "assistant", "content": row["output"]},
            ]
        },
    ),
}
"""Name of the file -> corpus, and how a record of it is written."""
REQUEST = {"max_tokens": 16, "temperature": 0, "cache_prompt": False}


class Walk:
    """Commands typed in one folder, with their times."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.steps, self.environment = folder, list[Row](), dict(os.environ)
        self.environment |= {"PATH": f"{folder / 'venv/bin'}:{os.environ['PATH']}", "PYTHONPATH": ""}

    def type(self, command: str) -> str:
        """Run a command; its stdout."""
        print(f"$ {command}", flush=True)
        began, before = time.perf_counter(), os.times()
        # The last words of a failed command are on stderr, which goes to the terminal.
        done = subprocess.run(
            shlex.split(command), cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True
        )
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        wall = time.perf_counter() - began
        self.steps.append({"command": command, "wall_seconds": round(wall, 1), "processor_seconds": round(used, 1)})
        print(done.stdout, f"  {wall:.1f} s", flush=True)
        if done.returncode:
            raise SystemExit(f"{command}: expected 0, got {done.returncode}")
        return done.stdout

    @contextlib.contextmanager
    def started(self, command: list[str], url: str) -> Iterator[float]:
        """Run a server until the end of the block; yields the seconds until it answers."""
        print(f"$ {shlex.join(command)[:200]} &", flush=True)
        began = time.perf_counter()
        with subprocess.Popen(command, cwd=self.folder, env=self.environment) as process:
            try:
                while not answers(url):
                    assert process.poll() is None, command
                    time.sleep(0.1)
                yield time.perf_counter() - began
            finally:
                process.terminate()


def answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
        return bool(answer.status == 200)
    return False


def install(walk: Walk) -> None:
    """A wheel of this tree in a new environment, which finds its dependencies where this one has them."""
    source = walk.folder / "source"  # a copy, because setuptools would leave its build in the tree
    for name in ("analysis", "hydralora", "pipelines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = shlex.join([sys.executable, "-m", "pip"])
    walk.type(f"{pip} wheel -q --no-deps --no-build-isolation -w wheel ./source")
    walk.type(f"{shlex.quote(sys.executable)} -m venv venv")
    packages = next((walk.folder / "venv").glob("lib/*/site-packages"))
    (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (wheel,) = (walk.folder / "wheel").glob("*.whl")
    walk.type(f"venv/bin/pip install -q --no-deps {shlex.quote(str(wheel))}")


def write_files(folder: Path, corpora: Path, records: int) -> None:
    for name, (corpus, written) in SHAPES.items():
        rows = pl.read_parquet(corpora / f"{corpus}_train.parquet").sample(records, seed=1).iter_rows(named=True)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(written(row)) + "\n" for row in rows))


def held_out(corpora: Path, count: int) -> list[tuple[str, str]]:
    """Source and prompt of a few short held-out documents."""
    found = []
    for name, (corpus, _) in SHAPES.items():
        table = pl.read_parquet(corpora / f"{corpus}_test.parquet")
        text = pl.concat_str("instruction", "input", separator="\n\n", ignore_nulls=True).str.strip_chars()
        prompts = table.select(text).to_series()
        found += [(name, prompt) for prompt in prompts.filter(prompts.str.len_chars() < 800).head(count)]
    return found


def ask(names: list[str], prompts: list[tuple[str, str]]) -> list[Row]:
    """Ask each prompt through the proxy, and the backend for the expert of its source."""
    rows = []
    for source, prompt in prompts:
        request = {"messages": [{"role": "user", "content": prompt}], **REQUEST}
        began = time.perf_counter()
        raw, headers = post(PROXY, "chat/completions", {"model": "auto", **request})
        seconds = time.perf_counter() - began
        scales = [{"id": i, "scale": float(name == source)} for i, name in enumerate(names)]
        direct = text_of(post(BACKEND, "chat/completions", {**request, "lora": scales})[0])
        expert = headers["x-hydralora-expert"]
        rows.append({"source": source, "expert": expert, "equal": text_of(raw) == direct, "seconds": round(seconds, 2)})
        print(rows[-1], flush=True)
    return rows


def serve(walk: Walk, exports: Path, prompts: list[tuple[str, str]]) -> Row:
    """Start llama.cpp and the proxy, and ask."""
    config = AutoConfig.from_pretrained(provision_embedded_base_model())
    names = sorted(path.parent.name for path in exports.glob("*/adapter_config.json"))
    template = (exports / "chat_template.jinja").read_text()
    adapters = [str(walk.folder / f"{name}.gguf") for name in names]
    for name, path in zip(names, adapters, strict=True):
        lora_to_gguf(exports / name, config, Path(path))
    base = str(walk.folder / "float32.gguf")
    in_float32(embedded_gguf(), Path(base))
    code = f"from serve_end_to_end import run_llama_cpp; run_llama_cpp({base!r}, {adapters!r}, {template!r})"
    walk.environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    backend = [sys.executable, "-c", code]
    urls = f"http://127.0.0.1:{BACKEND}/v1/models", f"http://127.0.0.1:{PROXY}/readyz"
    proxy = ["hydralora", "serve", str(exports), "--backend", f"http://127.0.0.1:{BACKEND}", "--port", str(PROXY)]
    with walk.started(backend, urls[0]) as backend_seconds:
        walk.environment["PYTHONPATH"] = ""
        with walk.started([str(walk.folder / "venv/bin" / proxy[0]), *proxy[1:]], urls[1]) as proxy_seconds:
            walk.steps.append({"command": shlex.join(proxy), "wall_seconds": round(proxy_seconds, 1)})
            rows = ask(names, prompts)
    return {"backend_seconds": round(backend_seconds, 1), "requests": rows}


def measured(walk: Walk, asked: str) -> Path:
    """The whole job, with baselines and a report; its exports."""
    walk.type(f"hydralora init {asked}")
    told = walk.type("hydralora run hydralora.yaml")
    walk.type(following(told, r"Next: (hydralora serve .*?) +#"))
    return walk.folder / following(told, "Exports: (.*)")


def trained(walk: Walk, asked: str) -> Path:
    """One adapter and its exports, without a measurement."""
    told = walk.type(f"hydralora train {asked}")
    told = walk.type(following(told, "Next: (hydralora export .*)"))
    walk.type(following(told, r"Start a server with them: (hydralora serve .*?) +#"))
    return walk.folder / "exports"


def following(told: str, line: str) -> str:
    """The command that another one names."""
    found = re.search(f"^{line}$", told, re.MULTILINE) or re.search(f"^{line}", told, re.MULTILINE)
    assert found is not None, told
    return found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpora", type=Path, required=True, help="folder of <corpus>_train.parquet and _test.parquet"
    )
    parser.add_argument("--records", type=int, default=400, help="of each file")
    parser.add_argument("--tokens", type=int, default=1500, help="budget of each adapter")
    parser.add_argument("--prompts", type=int, default=4, help="held-out prompts of each source")
    parser.add_argument("--short", action="store_true", help="train and export, without baselines and a report")
    parser.add_argument("--folder", type=Path, help="empty folder to walk in, which is kept; else a temporary one")
    arguments = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as scratch:
        walk = Walk((arguments.folder or Path(scratch)).resolve())
        install(walk)
        write_files(walk.folder, arguments.corpora, arguments.records)
        files = " ".join(f"{name}.jsonl" for name in SHAPES)
        walk.type(f"hydralora analyze {files}")
        asked = f"{files} --experts sources --tokens {arguments.tokens}"
        exports = trained(walk, asked) if arguments.short else measured(walk, asked)
        served = serve(walk, exports, held_out(arguments.corpora, arguments.prompts))
        written = walk.folder / "hydralora.yaml"
        lines = written.read_text().count("\n") if written.exists() else 0
    rows = served["requests"]
    result = {
        "commands_of_hydralora": sum(step["command"].startswith("hydralora") for step in walk.steps),
        "yaml_lines_by_hand": 0,
        "yaml_lines_written": lines,
        "seconds_to_first_answer": round(
            sum(s["wall_seconds"] for s in walk.steps) + served["backend_seconds"] + rows[0]["seconds"], 1
        ),
        "right_expert": sum(row["expert"] == row["source"] for row in rows),
        "equal_to_the_backend": sum(row["equal"] for row in rows),
        "asked": len(rows),
        "steps": walk.steps,
        **served,
        "load": [load[0], os.getloadavg()[0]],
        "versions": {name: version(name) for name in ("xllamacpp", "torch", "peft", "dagster")},
        "environment": environment(),
    }
    text = json.dumps(result, indent=1).replace(str(walk.folder), "FOLDER").replace(str(ROOT), "ROOT")
    results = RESULTS.with_stem(f"{RESULTS.stem}_short") if arguments.short else RESULTS
    results.write_text(text.replace(sys.executable, "python") + "\n")
    print({name: value for name, value in result.items() if isinstance(value, int | float)})


if __name__ == "__main__":
    main()
