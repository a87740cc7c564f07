"""An installed distribution as text: its files, its parsed modules, its metadata. Nothing is ever imported."""

import ast
import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path

MAX_SOURCE_BYTES = 220_000
"""Limit of Python source parsed per distribution. It keeps a harvest within seconds, and big packages from filling
it."""
MAX_FILE_BYTES = 60_000
SKIPPED_FOLDERS = frozenset({"tests", "test", "testing", "_vendor", "vendor", "vendored", "_vendored", "extern"})


@dataclass(frozen=True, slots=True)
class Pair:
    """One instruction record before it gets its source; `path` is relative to site-packages."""

    task: str
    prompt: str
    completion: str
    path: str


@dataclass(frozen=True, slots=True)
class Module:
    """A parsed Python file."""

    path: str
    lines: list[str]
    tree: ast.Module


def stable_order(text: str) -> str:
    """A sort key that is random but the same everywhere. It decides which files or pairs are taken if not all fit."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Package:
    """A distribution that is installed here."""

    distribution: metadata.Distribution
    name: str
    version: str
    paths: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, distribution: metadata.Distribution) -> "Package":
        """List the files of a distribution, sorted."""
        files = (str(path) for path in distribution.files or () if ".." not in path.parts)
        return cls(distribution, distribution.metadata["Name"], distribution.version, tuple(sorted(files)))

    @cached_property
    def metadata(self) -> dict[str, str | list[str]]:
        """The distribution's metadata; keys in lower case (`summary`, `description`, `classifier`)."""
        return self.distribution.metadata.json

    @cached_property
    def licence(self) -> str | None:
        """SPDX expression if the metadata has one, else its classifier or short free text."""
        classifiers = [line.split(" :: ") for line in self.metadata.get("classifier", ()) if line.startswith("License")]
        named = [parts[-1] for parts in classifiers if len(parts) > 2]
        candidates = [self.metadata.get("license_expression"), *named, self.metadata.get("license")]
        return next((text for text in candidates if isinstance(text, str) and 0 < len(text) <= 80), None)

    def select(self, wanted: Callable[[str], bool]) -> list[str]:
        """Paths for which `wanted` holds, without tests and vendored copies."""
        return [path for path in self.paths if wanted(path) and not SKIPPED_FOLDERS & set(Path(path).parts[:-1])]

    def read(self, path: str) -> str:
        """Text of one file; bytes that are not UTF-8 are replaced."""
        return Path(str(self.distribution.locate_file(path))).read_text(encoding="utf-8", errors="replace")

    def sample(
        self, paths: list[str], max_bytes: int, max_file_bytes: int = MAX_FILE_BYTES
    ) -> Iterator[tuple[str, str]]:
        """(path, text) of files in a stable shuffled order until `max_bytes` are read; larger files are left out."""
        read = 0
        for path in sorted(paths, key=stable_order):
            location = Path(str(self.distribution.locate_file(path)))
            if not location.is_file() or location.stat().st_size > max_file_bytes:
                continue
            read += location.stat().st_size
            if read > max_bytes:
                return
            yield path, self.read(path)

    @cached_property
    def modules(self) -> list[Module]:
        """A sample of the Python files, parsed once for all tasks."""
        modules = []
        for path, text in self.sample(self.select(lambda path: path.endswith(".py")), MAX_SOURCE_BYTES):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)  # invalid escapes in other people's code
                try:
                    modules.append(Module(path, text.splitlines(), ast.parse(text)))
                except (SyntaxError, ValueError):  # templates with a .py suffix
                    continue
        return modules


def functions(module: Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(qualified name, node) of every function and method, except those defined inside functions."""
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield f"{node.name}.{inner.name}", inner


def docstrings(module: Module) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of the module's classes, functions and methods."""
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef) and (text := ast.get_docstring(node)):
            yield node.name, text
    for name, function in functions(module):
        if text := ast.get_docstring(function):
            yield name, text
