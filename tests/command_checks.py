"""Checks of commands that are not run: options exist, values are valid, files are there."""

import argparse
import importlib.util
import inspect
import json
import re
import runpy
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from tests.documentation import ROOT, blocks
from tests.pipelines.serving.small_serving import MODELS, StubBackend, free_port, running, small_exports


class Parsed(Exception):
    """The arguments are right; what follows is not run."""


def hydralora(name: str, *arguments: str) -> None:
    import typer

    from pipelines.cli.app import app

    typer.main.get_command(app).commands[name].make_context(name, list(arguments))


def click_command(command: Any, *words: str) -> dict[str, Any]:
    """Values of the options of a command of click, under the names of its groups."""
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    values: dict[str, Any] = command.make_context(command.name, list(words)).params
    return values


def dagster(*words: str) -> None:
    from dagster._cli import create_dagster_cli

    from pipelines.defs.study.study_run import PARTITIONS

    partitions = click_command(create_dagster_cli(), *words).get("partitions")
    assert not partitions or set(partitions.split(",")) <= set(PARTITIONS.get_partition_keys())


def ray(*words: str) -> None:
    from ray.scripts.scripts import cli

    click_command(cli, *words)


def dg(*words: str) -> None:
    from pipelines.components.scaffolding import Parameters
    from pipelines.jobs import JOBS

    if words[:2] == ("scaffold", "defs"):
        _, _, kind, _, *options = words
        assert kind == "pipelines.components.ConfiguredJob"
        given = {name.removeprefix("--"): value for name, value in zip(options[::2], options[1::2], strict=True)}
        assert given.keys() <= Parameters.model_fields.keys()
        assert given.get("job", "hydralora") in {job.name for job in JOBS}
    else:
        assert words in [("check", "yaml"), ("check", "defs"), ("dev",)]


def make(*words: str) -> None:
    text = (ROOT / "Makefile").read_text()
    for word in words:
        name, _, value = word.partition("=")
        assert re.search(rf"^{name} \?=" if value else rf"^{name}:", text, re.MULTILINE), word


def pip(action: str, *words: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert action in ("install", "download")
    for word in words:
        if found := re.match(r"hydralora\[(.*)]", word):
            assert set(found[1].split(",")) <= extras.keys()


def python(*words: str) -> None:
    """A module or a script of ours, up to the point where it has read its arguments."""
    if words[0] == "-c":
        compile(words[1], "documentation", "exec")
    elif words[0] == "convert_lora_to_gguf.py":
        backend("llama.cpp", *words)
    elif words[0] == "-m":
        module = importlib.import_module(f"{words[1]}.__main__" if is_package(words[1]) else words[1])
        source = inspect.getsource(sys.modules[module.main.__module__])
        if "parse_args" in source:
            read_arguments(module.main, words[1:])
    else:
        text = (ROOT / words[0]).read_text()
        assert "parse_args" in text or not words[1:]
        if words[1:]:
            with pytest.MonkeyPatch.context() as patch:  # as Python does for the script's folder
                patch.syspath_prepend(str((ROOT / words[0]).parent))
                read_arguments(runpy.run_path(str(ROOT / words[0]))["main"], words)


def is_package(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    return spec.submodule_search_locations is not None


def read_arguments(main: Callable[[], Any], words: Sequence[str]) -> None:
    read = argparse.ArgumentParser.parse_args

    def stop(*arguments: Any) -> None:
        read(*arguments)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", list(words))
        with pytest.raises(Parsed):
            main()


def torchrun(*words: str) -> None:
    from torch.distributed.run import get_args_parser

    given = get_args_parser().parse_args(list(words))
    assert given.module
    python("-m", given.training_script, *given.training_script_args)


def backend(kind: str, *words: str) -> None:
    """A command of a server with LoRAs: all its options are in the lines that `--print-config` writes."""
    from pipelines.serving.setup.exports import Exports
    from pipelines.serving.setup.launch_lines import printed
    from pipelines.serving.setup.settings import Settings

    Path("some/base").mkdir(parents=True, exist_ok=True)  # a base model in a folder, as the pages have it
    folder = small_exports(Path("printed", kind, words[0]))
    (folder / "chat_template.jinja").touch()
    line = printed(kind, Exports.read(folder), Settings(folder, "http://localhost:8000"))
    assert words[0] in line.split()
    assert {word for word in words if word.startswith("-")} <= set(line.split()), line


def curl(*words: str) -> None:
    """Sends the request to the proxy in front of a stub, or reads it if it is for llama.cpp."""
    from pipelines.serving.app import create_app
    from pipelines.serving.server import server_config
    from pipelines.serving.setup.settings import Settings

    path = next(word for word in words if word.startswith("localhost:")).removeprefix("localhost:8080")
    body = json.loads(words[words.index("-d") + 1])
    if path == "/completion":
        assert body["lora"] == [{"id": 0, "scale": 1.0}]
        return
    with running(uvicorn.Config(StubBackend(), port=free_port(), log_level="error", lifespan="off")) as url:
        settings = Settings(small_exports(Path("served")), url, port=free_port())
        with running(server_config(settings, create_app(settings))) as proxy:
            answer = httpx.post(proxy + path, json=body, trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["x-hydralora-expert"] in MODELS
    shown = {name for block in blocks("text") for name in re.findall(r"^(x-hydralora-\w+):", block.text, re.MULTILINE)}
    assert shown == {name for name in answer.headers if name.startswith("x-hydralora-")}


SHELL = {"bash", "cat", "cd", "export", "git", "kill", "pytest", "tar"}
"""Programs of which only the named files are checked."""
CHECKS: dict[str, Callable[..., None]] = {
    "curl": curl,
    "dagster": dagster,
    "dg": dg,
    "hydralora": hydralora,
    "llama-server": lambda *words: backend("llama.cpp", "llama-server", *words),
    "make": make,
    "pip": pip,
    "python": python,
    "ray": ray,
    "torchrun": torchrun,
    "vllm": lambda *words: backend("vllm", *words),
}


def check(words: list[str]) -> None:
    """Check a command; files of ours that it names exist."""
    for word in words:
        if re.match(r"(benchmarks|pipelines|tests|\.ci)/", word):
            assert (ROOT / word).exists(), word
    if words[0] not in SHELL:
        assert words[0] in CHECKS, f"{words[0]}: expected a check for this program, or the language `text`"
        CHECKS[words[0]](*words[1:])
