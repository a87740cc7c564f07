"""What a parameter means: the parameter sections of docstrings in NumPy's and Google's style."""

import re
import textwrap
from collections.abc import Iterator

from analysis.sources.packages.package import Package, Pair, docstrings

NUMPY_SECTION = re.compile(
    r"^(?:Other )?Parameters\n-{4,}\n(.*?)(?=\n\n?[A-Z][\w ]+\n-{3,}|\Z)", re.MULTILINE | re.DOTALL
)
NUMPY_ENTRY = re.compile(r"^(\w+) ?: ?([^\n]*)\n((?:(?: +[^\n]*)?\n?)+)", re.MULTILINE)
GOOGLE_SECTION = re.compile(r"^(?:Args|Arguments|Parameters):\n((?:(?: +[^\n]*)?(?:\n|\Z))+)", re.MULTILINE)
GOOGLE_ENTRY = re.compile(r"^(\w+)(?: ?\(([^\n]*?)\))?: ?\n?([^\n]+(?:\n(?: +[^\n]*)?)*)", re.MULTILINE)
MIN_DESCRIPTION = 30


def harvest(package: Package) -> Iterator[Pair]:
    """Prompt: the name of a parameter, its type and its function. Completion: the first sentences about it."""
    for module in package.modules:
        for name, docstring in docstrings(module):
            for parameter, kind, description in _entries(docstring):
                text = " ".join(description.split("\n\n")[0].split())
                if len(text) >= MIN_DESCRIPTION:
                    typed = f" ({' '.join(kind.split())})" if kind else ""
                    prompt = (
                        f"In `{package.name}`, what is the meaning of the argument `{parameter}`{typed} of `{name}`?"
                    )
                    yield Pair("explain_parameter", prompt, text, module.path)


def _entries(docstring: str) -> Iterator[tuple[str, str, str]]:
    for section, entry in ((NUMPY_SECTION, NUMPY_ENTRY), (GOOGLE_SECTION, GOOGLE_ENTRY)):
        for found in section.finditer(docstring):
            yield from entry.findall(textwrap.dedent(found.group(1)))
