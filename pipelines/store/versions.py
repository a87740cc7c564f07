"""Code versions: a hash over every project module that a module reaches by its imports.

An artifact belongs to the code that made it. A version bumped by hand, or a list of modules typed by hand, is forgotten
sooner or later, and then an old result is taken for a new one. A needless rebuild is the cheaper mistake.
"""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

PROJECT = ("analysis", "hydralora", "pipelines")
DATA_SUFFIXES = (".j2", ".css", ".js")
"""Files of a package that its code reads: templates, style sheets, scripts."""


@functools.cache
def code_version(module: str) -> str:
    """8 hex digits over the sources that `module` reaches, without importing them.

    Args:
        module: its dotted name, `__name__` for one's own.

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
    """The project modules that run when `module` does: its imports, theirs, and the packages around each of them.

    Imports inside functions count. Imports for type checkers alone do not.
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
            # What is imported from a package may be a module of it, or a name in its `__init__`.
            names += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.split(".")[0] in PROJECT)


def _running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING:`."""
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
    """The file of a project module, None for what is none."""
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
    spec = importlib.util.find_spec(package)  # of a submodule, this would import the packages around it
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
