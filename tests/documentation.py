"""The code blocks of the documentation, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = "sh"


class Block(NamedTuple):
    """A code block; one without a language has commands, so a listing must say that it is `text`."""

    place: str
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    """The blocks of these languages in all pages."""
    return [block for block in _all_blocks() if block.language in languages]


@cache
def _all_blocks() -> list[Block]:
    return [
        Block(f"{page.relative_to(ROOT)}:{token.map[0] + 1}", token.info.strip() or COMMANDS, token.content)
        for page in PAGES
        for token in MarkdownIt().parse(page.read_text(encoding="utf-8"))
        if token.map and token.type in ("fence", "code_block")
    ]


def inline_code() -> list[tuple[str, str]]:
    """Page and text of each piece of code within a sentence, of comments in configurations too."""
    pages = [*PAGES, *sorted((ROOT / "pipelines" / "configs").glob("*.yaml"))]
    return [
        (str(page.relative_to(ROOT)), code)
        for page in pages
        for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL))
    ]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command, without comments, variables of the environment and brackets of optional words."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(re.sub(r"\[(--[^]]+)\]", r"\1", line), comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            command, words = words[:end], words[end + 1 :]
            while command and re.match(r"[A-Z_]+=", command[0]):
                command = command[1:]
            if command:
                yield command
