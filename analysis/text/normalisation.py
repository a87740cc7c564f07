"""Normalises text: NFC, Unix line ends, no control characters, no stray white space. Indentation is kept."""

import re
import unicodedata

import polars as pl

# As characters, because `re` and polars escape them in different ways.
LINE_END = "\r\n?|[\x0b\x0c\x85\u2028\u2029]"
"""Line and page ends of other systems, such as the form feed between two pages."""
INVISIBLE = "[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\u200b]"
"""C0 and C1 controls except tab and line ends, the byte order mark, and the zero-width space."""

NOT_NFC = r"[^\x00-\x{2ff}]"
"""Characters that NFC may change. Polars needs 8 microseconds to look at a text without one."""


def normalised(text: pl.Expr) -> pl.Expr:
    """Normalise `text`; null becomes the empty string.

    Spaces at line ends and blank lines around the text are removed. Spaces at the start of a line are kept, even on the
    first line, because a completion may begin inside an indented block of code.
    """
    cleaned = (
        text.fill_null("")
        .str.replace_all(LINE_END, "\n")
        .str.replace_all(INVISIBLE, "")
        .str.replace_all(r"[ \t\x{a0}]+\n", "\n")
        .str.replace(r"^\n+", "")
        .str.strip_chars_end()
    )
    may_change = pl.when(cleaned.str.contains(NOT_NFC)).then(cleaned)
    return may_change.str.normalize("NFC").fill_null(cleaned)


def normalised_text(text: str) -> str:
    """One text as `normalised` makes it, without the fixed costs of a table."""
    text = re.sub(LINE_END, "\n", text)
    text = re.sub(INVISIBLE, "", text)
    text = re.sub(r"[ \t\xa0]+\n", "\n", text)
    return unicodedata.normalize("NFC", text.lstrip("\n").rstrip())
