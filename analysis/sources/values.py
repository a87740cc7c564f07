"""Turns a value of a file into text, exactly as it is in the file."""

import json
import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from analysis.sources.records import SourceError

EXPECTED = "expected text, a number or a list of texts"
WAY_OUT = "Say under `columns` what to read: column.field for a field of an object, messages for conversations"


class Number(str):
    """A number of a JSON file with its original digits, of any length: 4 stays 4, 1.50 stays 1.50."""

    __slots__ = ()


def _constant(name: str) -> Number | None:
    """None for NaN, which pandas writes for a missing value."""
    return None if name == "NaN" else Number(name)


def json_decoder(objects: Callable[[list[tuple[str, Any]]], Any] | None = None) -> json.JSONDecoder:
    """A decoder with which numbers keep their digits; `objects` makes an object from its fields."""
    # Not strict, so that raw tabs inside texts are accepted.
    return json.JSONDecoder(
        parse_int=Number, parse_float=Number, parse_constant=_constant, strict=False, object_pairs_hook=objects
    )


decoded = json_decoder().decode
"""The value of JSON text. Numbers keep their digits."""


class OddValueError(ValueError):
    """A value is not text. The message says what it is."""


def text_of(value: Any) -> str | None:
    """The text of a value; None for null and for a number that is missing (NaN).

    Raises:
        OddValueError: the value is an object, bytes, or a list with items that are not texts.
    """
    match value:
        case None:
            return None
        case str():
            return str(value)
        case bool():
            return "true" if value else "false"
        case float():
            return None if math.isnan(value) else repr(value)
        case Decimal():
            return format(value, "f")
        case list() | tuple():
            texts = [item for item in value if item is not None]
            if all(isinstance(item, str) and not isinstance(item, Number) for item in texts):
                return "\n".join(texts)
            raise OddValueError(f"found {describe(value)}; {EXPECTED}")
        case dict() | bytes() | timedelta():
            raise OddValueError(f"found {describe(value)}; {EXPECTED}")
    return str(value)


def describe(value: Any) -> str:
    """A short description of a value, for error messages."""
    match value:
        case None:
            return "null"
        case bool():
            return f"the truth value {str(value).lower()}"
        case Number() | int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value[:40]!r}"
        case bytes():
            return "bytes"
        case dict():
            return f"an object with the fields {[str(name) for name in value][:8]}"
        case list() | tuple():
            kinds = sorted({_kind(item) for item in value})
            return f"a list of {', '.join(kinds)}" if kinds else "an empty list"
    return f"a value of type {type(value).__name__}"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "nulls"
        case bool():
            return "truth values"
        case Number() | int() | float():
            return "numbers"
        case str():
            return "texts"
        case dict():
            return "objects"
        case list() | tuple():
            return "lists"
    return type(value).__name__


def texts(values: Sequence[Any] | pl.Series, name: str, place: Callable[[int], str]) -> pl.Series:
    """The text of each value.

    Args:
        values: values of one column, as Python values or as a series of a plain type.
        name: name of the column, for error messages.
        place: function from a row index to its place in the file.

    Raises:
        SourceError: a value is not text. The message has the place, the column and what was found.
    """
    if isinstance(values, pl.Series):
        if not (values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object, pl.Duration)):
            return _plain(values)
        values = values.to_list()
    if set(map(type, values)) <= {str, type(None)}:
        return text_series(values)
    found = []
    for row, value in enumerate(values):
        try:
            found.append(text_of(value))
        except OddValueError as error:
            raise SourceError(f"{place(row)}, column {name!r}: {error}. {WAY_OUT}") from error
    return text_series(found)


def _plain(values: pl.Series) -> pl.Series:
    if values.dtype.is_float():
        values = values.fill_nan(None)
    if values.dtype == pl.Boolean:
        values = values.cast(pl.Int8).replace_strict({0: "false", 1: "true"}, return_dtype=pl.String, default=None)
    if isinstance(values.dtype, pl.Datetime):
        return values.dt.to_string("%Y-%m-%d %H:%M:%S%.f" + ("%:z" if values.dtype.time_zone else ""))
    return values.cast(pl.String)


def text_series(values: Sequence[str | None]) -> pl.Series:
    """A series of texts. Lone surrogates become U+FFFD, like bytes that are not UTF-8."""
    try:
        return pl.Series(values, dtype=pl.String)
    except UnicodeEncodeError:
        return pl.Series([value if value is None else _whole(value) for value in values], dtype=pl.String)


def _whole(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
