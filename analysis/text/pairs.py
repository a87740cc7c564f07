"""A prompt and its answer as one text that can be taken apart again."""

import polars as pl

SEPARATOR = "\x1e"
"""Between prompt and answer. `normalised` removes control characters, so no document has it."""


def joined(prompt: pl.Expr, completion: pl.Expr) -> pl.Expr:
    """Prompts and answers, joined into one text each."""
    return pl.concat_str(prompt, completion, separator=SEPARATOR)


def parts(texts: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Prompts [n] and answers [n] of joined texts. A text without a separator is a prompt with an empty answer."""
    split = texts.str.splitn(SEPARATOR, 2).struct
    return split.field("field_0"), split.field("field_1").fill_null("")
