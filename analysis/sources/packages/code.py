"""Docstring from code, and code from docstring.

Each function is used for only one of the two tasks. Otherwise a training prompt could contain a held-out answer.
"""

import ast
import textwrap
from collections.abc import Iterator

from analysis.sources.packages.package import Module, Package, Pair, functions, stable_order

MAX_BODY_LINES = 18
MIN_SUMMARY = 25


def harvest_docstrings(package: Package) -> Iterator[Pair]:
    """Prompt: a function without its docstring. Completion: the docstring's first sentence."""
    for module, name, function, summary in _documented(package):
        if _serves_code(module, name):
            continue
        code = _without_docstring(module, function)
        prompt = f"Summarise what this Python function does, as the first line of its docstring.\n\n{code}"
        yield Pair("summarise_function", prompt, summary, module.path)


def harvest_code(package: Package) -> Iterator[Pair]:
    """Prompt: a signature, and what the function does. Completion: its body."""
    for module, name, function, summary in _documented(package):
        if not _serves_code(module, name):
            continue
        signature, body = _signature_and_body(module, function)
        prompt = f'Complete the body.\n\n{signature}\n    """{summary}"""'
        yield Pair("complete_function", prompt, body, module.path)


def _serves_code(module: Module, name: str) -> bool:
    return stable_order(f"{module.path}:{name}") < "8"


def _documented(package: Package) -> Iterator[tuple[Module, str, ast.FunctionDef, str]]:
    for module in package.modules:
        for name, function in functions(module):
            docstring = ast.get_docstring(function)
            if docstring is None or len(function.body) < 2:
                continue
            lines = (function.end_lineno or 0) - function.body[1].lineno + 1
            summary = " ".join(docstring.split("\n\n")[0].split())
            if lines <= MAX_BODY_LINES and MIN_SUMMARY <= len(summary) <= 250:
                yield module, name, function, summary


def _lines(module: Module, first: int, last: int) -> str:
    return textwrap.dedent("\n".join(module.lines[first - 1 : last])).rstrip()


def _signature_and_body(module: Module, function: ast.FunctionDef) -> tuple[str, str]:
    signature = _lines(module, function.lineno, function.body[0].lineno - 1)
    body = _lines(module, (function.body[0].end_lineno or 0) + 1, function.end_lineno or 0).lstrip("\n")
    return signature, textwrap.indent(body, "    ")


def _without_docstring(module: Module, function: ast.FunctionDef) -> str:
    return "\n".join(_signature_and_body(module, function))
