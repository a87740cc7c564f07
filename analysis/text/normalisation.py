"""Normalises text: NFC, Unix line ends, no control characters, no stray white space. Indentation is kept."""

import re
import unicodedata

import polars as pl

# C0 and C1 controls except tab and line feed, the byte order mark, and the invisible zero-width space;
# as characters, because `re` and polars escape them in different ways
INVISIBLE = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\u200b]"

NOT_NFC = r"[^\x00-\x{2ff}]"
"""Characters that NFC may change. Polars needs 8 microseconds to look at a text without one."""


def normalised(text: pl.Expr) -> pl.Expr:
    """Normalise `text`; null becomes the empty string.

    Spaces at line ends and blank lines around the text are removed. Spaces at the start of a line are kept, even on the
    first line, because a completion may begin inside an indented block of code.
    """
    cleaned = (
        text.fill_null("")
        .str.replace_all(r"\r\n?|\x{2028}|\x{2029}", "\n")
        .str.replace_all(INVISIBLE, "")
        .str.replace_all(r"[ \t\x{a0}]+\n", "\n")
        .str.replace(r"^\n+", "")
        .str.strip_chars_end()
    )
    may_change = pl.when(cleaned.str.contains(NOT_NFC)).then(cleaned)
    return may_change.str.normalize("NFC").fill_null(cleaned)


def normalised_text(text: str) -> str:
    """One text as `normalised` makes it, without the fixed costs of a table."""
    text = re.sub(r"\r\n?|\u2028|\u2029", "\n", text)
    text = re.sub(INVISIBLE, "", text)
    text = re.sub(r"[ \t\xa0]+\n", "\n", text)
    return unicodedata.normalize("NFC", text.lstrip("\n").rstrip())
