"""C and C++: the declaration that a comment in a header file describes."""

import re
from collections.abc import Iterator

from analysis.sources.packages.package import Package, Pair

MAX_BYTES = 1_500_000
# a run of `///` or `//` lines, or a `/** */` block, and then a declaration up to its end
COMMENTED = re.compile(
    r"^(?P<comment>(?:[ \t]*//[^\n]*\n)+|[ \t]*/\*\*.*?\*/[ \t]*\n)"
    r"(?P<declaration>[ \t]*[\w:~\[<][^\n]*\n(?:[^\n]*\n){0,5}?)(?<=[;{]\n)",
    re.MULTILINE | re.DOTALL,
)
# a type and a name before the first parenthesis; not a call, an assignment or a statement
FUNCTION = re.compile(r"(?!return|throw|delete|else|using|if|for|while)[\w:<>,*&~\[\]\s]+[\s*&][\w:~]+\(")
COMMENT_MARKS = re.compile(r"^[ \t]*(?:///?<?!?|/\*\*|\*/|\*)[ \t]?|\*/[ \t]*$", re.MULTILINE)
NOT_PROSE = re.compile(r"[Cc]opyright|NOLINT|^aten::")
MIN_COMMENT = 40
MAX_COMMENT = 600


def harvest(package: Package) -> Iterator[Pair]:
    """Prompt: the comment. Completion: the declaration."""
    paths = package.select(lambda path: path.endswith((".h", ".hpp", ".cuh")))
    for path, text in package.sample(paths, MAX_BYTES):
        for match in COMMENTED.finditer(text):
            comment = " ".join(COMMENT_MARKS.sub("", match.group("comment")).split())
            declaration = match.group("declaration").rstrip(" \t\n{").strip()
            usable = MIN_COMMENT <= len(comment) <= MAX_COMMENT and not NOT_PROSE.search(comment)
            if usable and FUNCTION.match(declaration):
                yield Pair("declare", f"Write the C++ declaration for this comment.\n\n// {comment}", declaration, path)
