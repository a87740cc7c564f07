"""Where documents come from. Each kind of source has a frozen configuration class and a function that reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from analysis.sources.catalog import CatalogEntry, CatalogSource, hub_source, load_catalog
from analysis.sources.files import FilesSource, file_blocks, matching_files
from analysis.sources.hub import HubSource, hub_blocks
from analysis.sources.packages import PackagesSource, read_packages
from analysis.sources.records import (
    KEEP_BYTES,
    READ_ERRORS,
    RECORD_SCHEMA,
    Blocks,
    SourceError,
    SourceRecords,
    UnreachableError,
    read_blocks,
    said_by,
)

Source = PackagesSource | FilesSource | HubSource | CatalogSource


def read_source(name: str, config: Source) -> pl.LazyFrame:
    """Records of one source, with the columns of `RECORD_SCHEMA`.

    The whole source is read once before this function returns, so that every error is raised here. Up to `KEEP_BYTES`
    of records stay in memory. A larger source is read again for each pass over the table.

    Args:
        name: the documents' `source`.
        config: what to read. Its class is the kind of source.

    Raises:
        SourceError: the source cannot be read. The message begins with its name.
    """
    return _read(name, config, KEEP_BYTES).records


def _read(name: str, config: Source, keep_bytes: int) -> SourceRecords:
    try:
        return read_blocks(_blocks(name, config), keep_bytes)
    except SourceError as error:
        raise error.at(f"source {name!r}") from error
    except READ_ERRORS as error:
        raise SourceError(f"source {name!r}: {said_by(error)}") from error


def _blocks(name: str, config: Source) -> Blocks:
    match config:
        case PackagesSource():
            table = read_packages(name, config).collect()
            return lambda _: iter([table])
        case FilesSource():
            return lambda notes: file_blocks(name, config, notes)
        case HubSource():
            return lambda notes: hub_blocks(name, config, notes)
        case CatalogSource():
            return _blocks(name, hub_source(config))


@dataclass(frozen=True)
class SourcesRead:
    """Records of all sources that could be read.

    Attributes:
        records: table with the columns of `RECORD_SCHEMA`, in the order of the sources.
        failures: name of each source that could not be read -> error message.
        notes: name of a source -> notes on what was not read or may be ambiguous.
    """

    records: pl.LazyFrame
    failures: Mapping[str, str]
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_sources(sources: Mapping[str, Source], *, on_error: Literal["raise", "skip"] = "raise") -> SourcesRead:
    """Records of several sources, in the order given.

    Raises:
        SourceError: a source failed and `on_error` is "raise", or none could be read.
    """
    tables: list[pl.LazyFrame] = []
    failures: dict[str, str] = {}
    notes: dict[str, tuple[str, ...]] = {}
    keep_bytes = KEEP_BYTES
    for name, config in sources.items():
        try:
            read = _read(name, config, keep_bytes)
        except SourceError as error:
            if on_error == "raise":
                raise
            failures[name] = str(error)
            continue
        keep_bytes -= read.n_bytes
        tables.append(read.records)
        if read.notes:
            notes[name] = read.notes
    if not tables:
        details = "; ".join(failures.values()) or "no source is configured"
        raise SourceError(f"no corpus: {details}")
    return SourcesRead(pl.concat(tables), failures, notes)


__all__ = [
    "RECORD_SCHEMA",
    "CatalogEntry",
    "CatalogSource",
    "FilesSource",
    "HubSource",
    "PackagesSource",
    "Source",
    "SourceError",
    "SourcesRead",
    "UnreachableError",
    "hub_source",
    "load_catalog",
    "matching_files",
    "read_source",
    "read_sources",
]
