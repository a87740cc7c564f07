"""The project's source files as they were when this process started, and a guard against files that changed since.

Assets import much of their code only when they compute, which may be hours after the start. If somebody edits a file in
the meantime, the result would be stored under the version of the old code. So a module whose file has changed since the
start is not imported. Editing a module that is already imported does no harm: the process goes on with the old code.

`pipelines/__init__.py` calls `remember`, before it imports anything else. Nothing but the standard library is needed.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = ("analysis", "hydralora", "pipelines")
DATA_SUFFIXES = (".j2", ".css", ".js")
"""Suffixes of the files in a package that its code reads: templates, style sheets, scripts."""

_AT_START: dict[Path, bytes] = {}


class SourceChangedError(RuntimeError):
    """A source file changed after this process started."""


def remember() -> None:
    """Read all source files. From now on, refuse to import a module whose file has changed since."""
    if _AT_START:
        return
    for package in PROJECT:
        root = package_root(package)
        for path in [] if root is None else root.rglob("*"):
            if path.suffix in (".py", *DATA_SUFFIXES):
                _AT_START[path] = path.read_bytes()
    sys.meta_path.insert(0, _Guard())


def at_start(path: Path) -> bytes:
    """The bytes of a source file when this process started.

    Raises:
        SourceChangedError: the file did not exist then.
    """
    if path not in _AT_START:
        raise SourceChangedError(f"{path}: this file is newer than this process. Run again.")
    return _AT_START[path]


def check_unchanged(path: Path) -> None:
    """Check that a source file is still what it was when this process started.

    Raises:
        SourceChangedError: the file was edited, deleted or added.
    """
    now = path.read_bytes() if path.is_file() else None
    if now != _AT_START.get(path):
        raise SourceChangedError(
            f"{path} was edited while this process ran: expected the code with which it started. The result would "
            f"belong to neither version, so nothing was stored. Run again, which computes it with the new code."
        )


def module_files(module: str) -> Iterator[Path]:
    """The two places where the source of a project module may be; none for other modules."""
    package, *parts = module.split(".")
    root = package_root(package)
    if root is not None:
        path = root.joinpath(*parts)
        yield path / "__init__.py"
        if parts:
            yield path.with_suffix(".py")


def package_root(package: str) -> Path | None:
    """Folder of a package of the project; None for any other name."""
    if package not in PROJECT:
        return None
    spec = importlib.util.find_spec(package)  # for a submodule, find_spec would import its parent packages
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


class _Guard(importlib.abc.MetaPathFinder):
    """Finds no module itself: it only checks the files of modules that are about to be imported."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if "." in fullname:
            for file in module_files(fullname):
                check_unchanged(file)
