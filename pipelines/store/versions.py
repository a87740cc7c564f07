"""Code versions: a hash over every project module that a module imports, directly or indirectly.

An artifact belongs to the code that made it. People forget to update version numbers or module lists by hand, and then
an old result is used for new code. A needless rebuild is the cheaper mistake.
"""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

PROJECT = ("analysis", "hydralora", "pipelines")
DATA_SUFFIXES = (".j2", ".css", ".js")
"""Suffixes of the files in a package that its code reads: templates, style sheets, scripts."""


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
            digest.update(path.read_bytes())
    return digest.hexdigest()


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
    for node in _running_nodes(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(node, package)
            # A name imported from a package may be one of its modules, or a name in its `__init__`.
            names += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.split(".")[0] in PROJECT)


def _running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes except those below `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
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
    package, *parts = module.split(".")
    root = _root(package)
    if root is None:
        return None
    path = root.joinpath(*parts)
    if (path / "__init__.py").is_file():
        return path / "__init__.py"
    file = path.with_suffix(".py")
    return file if parts and file.is_file() else None


@functools.cache
def _root(package: str) -> Path | None:
    if package not in PROJECT:
        return None
    spec = importlib.util.find_spec(package)  # for a submodule, find_spec would import its parent packages
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
