"""Class label columns: the data has numbers, and the schema has their names."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from analysis.sources.formats.blocks import Block, Table, Values, Wanted
from analysis.sources.records import SourceError
from analysis.sources.values import describe

Names = Mapping[str, Sequence[str]]
"""Column -> label names, in the order of their numbers."""


@dataclass(frozen=True)
class LabelledTable:
    """A table in which the numbers of class labels are replaced by their names."""

    table: Table
    names: Names

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        """All rows; see `Table`."""
        for block in self.table.blocks(wanted):
            yield with_names(block, self.names)


def with_names(block: Block, names: Names) -> Block:
    """The block with label names instead of numbers.

    Raises:
        SourceError: a value is neither a label number nor a label name.
    """
    found = {name: _named(block, name, names[name]) for name in block.columns if name in names}
    return replace(block, columns={**block.columns, **found}) if found else block


def _named(block: Block, column: str, names: Sequence[str]) -> Values:
    values = block.columns[column]
    by_text: dict[Any, str | None] = {str(number): name for number, name in enumerate(names)}
    by_text |= {name: name for name in names} | {"-1": None, "": None}  # a name may itself be a number
    named = []
    for row, value in enumerate(values.to_list() if isinstance(values, pl.Series) else values):
        text = None if value is None else str(value)
        if text is not None and text not in by_text:
            raise SourceError(
                f"{block.place(row)}, column {column!r}: found {describe(value)}; expected the number of one of the "
                f"labels {list(names)[:10]}, or a label"
            )
        named.append(None if text is None else by_text[text])
    return named


def names_in_features(features: Mapping[str, Any] | None) -> Names:
    """Label names from features as `datasets` writes them: column -> `{"_type": "ClassLabel", "names": [..]}`."""
    found: dict[str, Sequence[str]] = {}
    for column, feature in (features or {}).items():
        plain = feature if isinstance(feature, Mapping) else vars(feature)
        kind = plain.get("_type") or type(feature).__name__
        if kind == "ClassLabel" and isinstance(plain.get("names"), list):
            found[column] = plain["names"]
    return found


def names_in_parquet(metadata: Mapping[bytes, bytes] | None) -> Names:
    """Label names that `datasets` wrote into the metadata of a Parquet file."""
    try:
        description = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    except ValueError:
        return {}
    info = description.get("info") if isinstance(description, dict) else None
    features = info.get("features") if isinstance(info, dict) else None
    return names_in_features(features if isinstance(features, dict) else None)
