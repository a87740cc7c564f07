"""Which text of a document stands for it."""

import polars as pl

DOCUMENT_TEXTS = ("prompt", "completion", "both")


def document_text(text: str = "prompt") -> pl.Expr:
    """The column of texts to cluster, as an expression over a documents table.

    Args:
        text: `prompt` is all that is known when a served model must choose its expert, and gives N more surely
            (docs/results/selection.md); `completion`; or `both`.

    Raises:
        ValueError: another value.
    """
    if text == "both":
        return pl.concat_str("prompt", "completion", separator="\n")
    if text in DOCUMENT_TEXTS:
        return pl.col(text)
    raise ValueError(f"document_text: expected one of {', '.join(DOCUMENT_TEXTS)}, got {text!r}")
