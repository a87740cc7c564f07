"""The commands in the documentation's `console` blocks run as they stand; all others name what there is."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.analysis.answer.small_corpus import GARDEN, LEDGER, write_records

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/own-data.md")
FILES = {"mydata/tickets.jsonl": GARDEN, "mydata/contracts.jsonl": LEDGER, "mydata/code.jsonl": ["loop", "list", "def"]}
SLOW = ("run",)
"""Commands that train; `make run` has their test."""


def commands(page: str) -> list[list[str]]:
    """The commands after a `$` in the blocks of a page."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.cli.__main__ import main

    monkeypatch.chdir(tmp_path)
    for seed, (name, words) in enumerate(FILES.items()):
        write_records(tmp_path / name, words, 60, seed)
    write_records(tmp_path / "my.jsonl", GARDEN, 60)
    (tmp_path / "more.csv").write_text(
        "prompt,completion\n" + "".join(f"pay the tax {i},paid {i}\n" for i in range(60))
    )
    found = commands(page)
    assert found
    for command, *arguments in found:
        assert command == "hydralora"
        if arguments[0] in SLOW:
            continue
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, arguments


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    notebook = json.loads((ROOT / "docs" / "analyze.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "docs/analyze.ipynb", "exec"), names)
    assert (tmp_path / "analysis" / "report.html").is_file()


def shown() -> dict[str, str]:
    """Every command of ours in a code block or in a line of text -> its page."""
    found = {}
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "pipelines" / "configs").glob("*.yaml")]:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in [*text.splitlines(), *re.findall(r"`([^`\n]+)`", text)]:
            command = re.match(r"[\s#$]*((?:hydralora|python -m (?:analysis|hydralora|pipelines)\S*) .*)", line)
            if command and page.name != "CHANGELOG.md":
                found[command[1]] = str(page.relative_to(ROOT))
    return found


def test_every_command_that_is_shown_names_what_there_is() -> None:
    import typer

    from pipelines.cli.app import app

    commands = typer.main.get_command(app).commands
    used = set()
    for command, page in shown().items():
        program, name, *arguments = shlex.split(command, comments=True)
        if program == "python":
            assert importlib.util.find_spec(arguments[0]), f"{page}: {command}"
        elif name in commands:
            used.add(name)
            try:
                commands[name].make_context(name, arguments)
            except Exception as error:  # typer's own copy of click has no public names
                if type(error).__name__ != "MissingParameter":  # in a line of text
                    raise AssertionError(f"{page}: {command}") from error
    assert used == set(commands)
