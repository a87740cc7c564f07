"""Prose about software: sections of the descriptions (READMEs) in the metadata of distributions."""

import re
from collections.abc import Iterator
from itertools import zip_longest

from analysis.sources.packages.package import Package, Pair

MARKDOWN_HEADING = re.compile(r"^#{1,4} +(.+?) *#*$")
UNDERLINE = re.compile(r"^([=\-~^*\"#])\1{3,}$")
FENCE = re.compile(r"^(```|~~~)")
MARKUP = re.compile(r"!\[[^\]]*\]\([^)]*\)|<[^>]+>|\.\. [\w-]+::.*")
LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)|`([^`<]+) <[^>]+>`_+")
MIN_SECTION = 150
MAX_SECTION = 1000


def harvest(package: Package) -> Iterator[Pair]:
    """Two tasks: the one-line summary of a project from its first section, and the heading of a section."""
    path = f"{package.name}/METADATA"
    summary = str(package.metadata.get("summary", ""))
    description = str(package.metadata.get("description", ""))
    for number, (heading, text) in enumerate(_sections(description)):
        passage = text[:MAX_SECTION].rsplit("\n", 1)[0] if len(text) > MAX_SECTION else text
        if len(passage) < MIN_SECTION:
            continue
        if number < 2 and summary:
            yield Pair("summarise_project", f"Describe this project in one line.\n\n{passage}", summary, path)
        elif heading:
            yield Pair("name_section", f"Give this section of a README a heading.\n\n{passage}", heading, path)


def _sections(text: str) -> Iterator[tuple[str, str]]:
    heading, body, fenced = "", [""], False
    lines = text.splitlines()
    for line, following in zip_longest(lines, lines[1:], fillvalue=""):
        fenced ^= bool(FENCE.match(line))
        markdown = None if fenced else MARKDOWN_HEADING.match(line)
        underlined = not fenced and line.strip() and UNDERLINE.match(following)
        if markdown or underlined:
            yield heading, _plain(body)
            heading, body = _plain([markdown.group(1) if markdown else line]), []
        elif not UNDERLINE.match(line):
            body.append(line)
    yield heading, _plain(body)


def _plain(lines: list[str]) -> str:
    """Without images, HTML and link targets."""
    text = LINK.sub(lambda link: link.group(1) or link.group(2), MARKUP.sub("", "\n".join(lines)))
    return re.sub(r"\n{3,}", "\n\n", text).strip()
