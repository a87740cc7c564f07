"""What an error message means: the exception it comes with, and the condition that raises it."""

import ast
from collections.abc import Iterator

from analysis.sources.packages.package import Package, Pair, functions

MIN_WORDS = 5
MAX_CONDITION = 120


def harvest(package: Package) -> Iterator[Pair]:
    """Prompt: the message. Completion: the exception and the condition in code."""
    for module in package.modules:
        for name, function in functions(module):
            for condition, error in _guarded_raises(function):
                found = _exception_and_message(error)
                if found is None or len(found[1].split()) < MIN_WORDS or len(condition) > MAX_CONDITION:
                    continue
                exception, message = found
                prompt = f'A program stopped with the message "{message}" Which error is it, and when does it occur?'
                yield Pair("explain_error", prompt, f"{exception}: `{name}` raises it if `{condition}`.", module.path)


def _guarded_raises(function: ast.FunctionDef) -> Iterator[tuple[str, ast.Raise]]:
    for node in _statements(function.body):
        if isinstance(node, ast.If) and isinstance(node.body[0], ast.Raise):
            yield ast.unparse(node.test), node.body[0]


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements at any depth; `ast.walk` would visit ten times as many expressions."""
    for node in body:
        yield node
        for name in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, name, []))
        for handler in getattr(node, "handlers", []):
            yield from _statements(handler.body)


def _exception_and_message(error: ast.Raise) -> tuple[str, str] | None:
    call = error.exc
    if not isinstance(call, ast.Call) or not call.args or not isinstance(call.func, ast.Name | ast.Attribute):
        return None
    message = _text(call.args[0])
    return (ast.unparse(call.func), " ".join(message.split())) if message else None


def _text(node: ast.expr) -> str | None:
    """A string literal; of an f-string, its values in braces."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [
            str(part.value) if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
            for part in node.values
            if isinstance(part, ast.Constant | ast.FormattedValue)
        ]
        return "".join(parts)
    return None
