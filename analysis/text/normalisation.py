"""Text in one form: NFC, Unix line ends, no control characters, no stray blank space; indentation stays."""

import polars as pl

# C0 and C1 controls except tab and line feed, the byte order mark, and the invisible zero-width space
INVISIBLE = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x{9f}\x{feff}\x{200b}]"


def normalised(text: pl.Expr) -> pl.Expr:
    """`text` in one form; a null becomes the empty string.

    Spaces at the end of a line and blank lines around the text go. Spaces at the start of a line stay, also of the
    first: a completion may begin inside an indented block of code.
    """
    return (
        text.fill_null("")
        .str.replace_all(r"\r\n?|\x{2028}|\x{2029}", "\n")
        .str.replace_all(INVISIBLE, "")
        .str.replace_all(r"[ \t\x{a0}]+\n", "\n")
        .str.replace(r"^\n+", "")
        .str.strip_chars_end()
        .str.normalize("NFC")
    )
