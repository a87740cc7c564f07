"""Predict the output of an interactive session found in a docstring."""

import doctest
from collections.abc import Iterator

from analysis.sources.packages.package import Package, Pair, docstrings

UNPREDICTABLE = ("...", " at 0x", "Traceback", "<BLANKLINE>", "```")


def harvest(package: Package) -> Iterator[Pair]:
    """Prompt: the session up to an expression. Completion: what it prints."""
    parser = doctest.DocTestParser()
    for module in package.modules:
        for name, docstring in docstrings(module):
            if ">>>" not in docstring:
                continue
            try:
                examples = parser.get_examples(docstring, name)
            except ValueError:  # inconsistent indentation in the docstring
                continue
            if session := _session(examples):
                prompt, printed = session
                yield Pair("predict_output", prompt, printed, module.path)


def _session(examples: list[doctest.Example]) -> tuple[str, str] | None:
    """The session up to its first predictable output. Each docstring gives one session, so no prompt contains
    another."""
    lines: list[str] = []
    for example in examples:
        source = example.source.rstrip("\n").replace("\n", "\n... ")
        lines.append(f">>> {source}")
        printed = example.want.rstrip("\n")
        if printed and not any(mark in printed for mark in UNPREDICTABLE):
            return "What does the last line of this session print?\n\n" + "\n".join(lines), printed
        lines += [printed] if printed else []
    return None
