"""Predict the output of an interactive session found in a docstring."""

import doctest
from collections.abc import Iterator

from analysis.sources.packages.package import Package, Pair, docstrings

MAX_EXAMPLES_PER_DOCSTRING = 3
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
            for prompt, printed in _sessions(examples):
                yield Pair("predict_output", prompt, printed, module.path)


def _sessions(examples: list[doctest.Example]) -> Iterator[tuple[str, str]]:
    session: list[str] = []
    found = 0
    for example in examples:
        source = example.source.rstrip("\n").replace("\n", "\n... ")
        session.append(f">>> {source}")
        printed = example.want.rstrip("\n")
        if not printed:
            continue
        if found < MAX_EXAMPLES_PER_DOCSTRING and not any(mark in printed for mark in UNPREDICTABLE):
            found += 1
            yield "What does the last line of this session print?\n\n" + "\n".join(session), printed
        session.append(printed)
