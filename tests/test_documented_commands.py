"""The documentation's `console` blocks run as they stand. Every other command is checked as far as a machine without a
GPU, a network and a cluster can: its options exist, its values are valid, and files that it names are there."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.analysis.answer.small_corpus import GARDEN, LEDGER, write_records

from .command_checks import check
from .documentation import COMMANDS, ROOT, Block, blocks, commands, inline_code

OURS = re.compile(r"(hydralora|python -m (analysis|hydralora|pipelines)\S*|make|dagster) [a-z]")
"""Commands in a sentence that are checked."""
FILES = {"mydata/tickets.jsonl": GARDEN, "mydata/contracts.jsonl": LEDGER, "mydata/code.jsonl": ["loop", "list", "def"]}


@pytest.fixture
def small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that pages speak of; the current folder of the test."""
    monkeypatch.chdir(tmp_path)
    for seed, (name, words) in enumerate(FILES.items()):
        write_records(tmp_path / name, words, 60, seed)
    write_records(tmp_path / "my.jsonl", GARDEN, 60)
    (tmp_path / "more.csv").write_text(
        "prompt,completion\n" + "".join(f"pay the tax {i},paid {i}\n" for i in range(60))
    )
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/own-data.md"])
def test_commands_of_a_page(page: str, small_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.check import wrong_with
    from pipelines.cli.__main__ import main

    found = [block for block in blocks("console") if block.place.startswith(page)]
    lines = [line.removeprefix("$ ") for block in found for line in block.text.splitlines() if line.startswith("$ ")]
    assert lines
    for command, *arguments in commands("\n".join(lines)):
        assert command == "hydralora"
        if arguments[0] == "run":  # trains for minutes; `make run` is in CI
            assert not wrong_with(Path(arguments[1]), "hydralora")
            continue
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, arguments


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((ROOT / "docs" / "analyze.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "docs/analyze.ipynb", "exec"), names)
    assert (tmp_path / "analysis" / "report.html").is_file()


@pytest.mark.parametrize("block", [pytest.param(block, id=block.place) for block in blocks(COMMANDS)])
def test_commands_of_a_block(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in commands(block.text):
        check(words)


@pytest.mark.parametrize(
    "line",
    [
        "unknown --option",
        "hydralora analyse my.jsonl",
        "hydralora analyze my.jsonl --outt x",
        "make instal",
        "make run CONFIGURATION=x",
        "pip install 'hydralora[server]'",
        "python benchmarks/no_such_script.py",
        "python benchmarks/studies/figure3.py draw",
        "python -m hydralora.training --configuration x",
        "torchrun --nproc-per-nodes 2 -m hydralora.training --config x",
        "dagster job backfill -m x -j y --partitions hydralora:seed-9:tuned",
        "dg scaffold defs pipelines.components.ConfiguredJob x --config y",
        "ray start --heads",
        "vllm serve your/model --lora-module x",
        "llama-server --loras x",
        'curl localhost:8080/v1/chats -d \'{"model": "auto"}\'',
    ],
)
def test_a_wrong_command_is_found(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((Exception, SystemExit)):  # each program has its own error
        check(next(commands(line)))


def test_commands_in_sentences() -> None:
    for page, code in inline_code():
        if OURS.match(code):
            try:
                check(next(commands(code)))
            except Exception as error:  # typer's own copy of click has no public names
                if type(error).__name__ != "MissingParameter":
                    raise AssertionError(f"{page}: {code}") from error


def test_every_command_of_ours_is_documented() -> None:
    from pipelines.cli.app import app

    shown = [words for block in blocks(COMMANDS, "console") for words in commands(block.text.replace("$ ", ""))]
    names = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {words[1] for words in shown if words[0] == "hydralora"} == names
