"""Which text of a document is clustered."""

import polars as pl

from analysis.text.pairs import joined

DOCUMENT_TEXTS = ("prompt", "completion", "both")
"""What a configuration may choose. The fourth text, `pair`, comes with joint features."""


def document_text(text: str = "prompt") -> pl.Expr:
    """The column of texts to cluster, as an expression over a documents table.

    Args:
        text: `prompt`, `completion`, `both`, or `pair` (both, for features that tell them apart). A served model knows
            only the prompt when it chooses an expert, and prompts give a more reliable N (docs/results/selection.md).

    Raises:
        ValueError: `text` has another value.
    """
    if text == "both":
        return pl.concat_str("prompt", "completion", separator="\n")
    if text == "pair":
        return joined(pl.col("prompt"), pl.col("completion"))
    return pl.col(checked_text(text))


def checked_text(text: str) -> str:
    """The text, if a configuration may choose it.

    Raises:
        ValueError: it may not.
    """
    if text not in DOCUMENT_TEXTS:
        raise ValueError(f"document_text: expected one of {', '.join(DOCUMENT_TEXTS)}, got {text!r}")
    return text
