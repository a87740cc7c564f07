"""Code versions: a hash over every project module that a module imports, directly or indirectly.

An artifact belongs to the code that made it. People forget to update version numbers or module lists by hand, and then
an old result is used for new code. A needless rebuild costs less than that.

The sources are those with which this process started; `pipelines.store.code.source_files` refuses to import others.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

from pipelines.store.code.source_files import (
    DATA_SUFFIXES,
    PROJECT,
    SourceChangedError,
    at_start,
    check_unchanged,
    module_files,
)


@functools.cache
def code_version(module: str) -> str:
    """A hash (8 hex digits) of the sources that `module` reaches. Nothing is imported to compute it.

    Args:
        module: dotted module name; a module passes its own `__name__`.

    Raises:
        ModuleNotFoundError: the project has no such module.
    """
    if _source(module) is None:
        raise ModuleNotFoundError(f"code_version: expected a module of {', '.join(PROJECT)}, got {module!r}")
    digest = hashlib.blake2b(digest_size=4)
    for reached in sorted(reached_modules(module)):
        for path in _files(reached):
            digest.update(f"{reached} {path.name}\n".encode())
            digest.update(at_start(path))
    return digest.hexdigest()


def check_version(module: str, expected: str) -> None:
    """Check in a child process that it runs the code of its parent.

    Args:
        expected: the parent's `code_version(module)`.

    Raises:
        SourceChangedError: the sources changed after the parent started.
    """
    if code_version(module) != expected:
        raise SourceChangedError(
            f"{module}, or a module that it imports, was edited after the run started: expected version {expected}, "
            f"found {code_version(module)}. Run again, which computes everything with the new code."
        )


def check_data_files(module: str) -> None:
    """Check that templates, style sheets and scripts that `module` reaches are those with which this process started.

    Raises:
        SourceChangedError: one was edited.
    """
    for path in {path for reached in reached_modules(module) for path in _files(reached)}:
        if path.suffix in DATA_SUFFIXES:
            check_unchanged(path)


@functools.cache
def reached_modules(module: str) -> frozenset[str]:
    """The project modules that `module` reaches: its direct and indirect imports, and their parent packages.

    Imports inside functions count. Imports only for type checkers do not.
    """
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in reached and _source(name) is not None:
            reached.add(name)
            waiting += _imported(name)
            waiting += [name.rpartition(".")[0]] if "." in name else []
    return frozenset(reached)


@functools.cache
def _imported(module: str) -> tuple[str, ...]:
    source = _source(module)
    assert source is not None
    package = module if source.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    for node in _running_nodes(ast.parse(at_start(source))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(node, package)
            # A name imported from a package may be one of its modules, or a name in its `__init__`.
            names += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.split(".")[0] in PROJECT)


def _running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that may hold an import, except those below `if TYPE_CHECKING:`. Expressions hold none."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr):
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for other in node.orelse:
                yield other
                yield from _running_nodes(other)
            continue
        yield node
        yield from _running_nodes(node)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = ".".join(parts[: len(parts) - node.level + 1])
    return f"{base}.{node.module}" if node.module else base


def _files(module: str) -> list[Path]:
    source = _source(module)
    assert source is not None
    if source.name != "__init__.py":
        return [source]
    return [source, *sorted(path for path in source.parent.iterdir() if path.suffix in DATA_SUFFIXES)]


@functools.cache
def _source(module: str) -> Path | None:
    """The source file of a project module; None if there is no such module."""
    return next((path for path in module_files(module) if path.is_file()), None)
