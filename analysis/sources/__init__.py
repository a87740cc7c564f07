"""Where documents come from: each kind of source is a frozen configuration and a function that reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from analysis.sources.catalog import CatalogEntry, CatalogSource, load_catalog, read_catalog
from analysis.sources.files import FilesSource, read_files
from analysis.sources.hub import HubSource, read_hub
from analysis.sources.packages import PackagesSource, read_packages
from analysis.sources.records import RECORD_SCHEMA, SourceError

Source = PackagesSource | FilesSource | HubSource | CatalogSource


def read_source(name: str, config: Source) -> pl.LazyFrame:
    """Records of one source, with the columns of `RECORD_SCHEMA`.

    Args:
        name: what the documents' `source` column will say.
        config: what to read; its class is the kind.

    Raises:
        SourceError: it cannot be read; the text begins with the source's name.
    """
    try:
        match config:
            case PackagesSource():
                return read_packages(name, config)
            case FilesSource():
                return read_files(name, config)
            case HubSource():
                return read_hub(name, config)
            case CatalogSource():
                return read_catalog(name, config)
    except (SourceError, OSError) as error:
        raise SourceError(f"source {name!r}: {error}") from error


@dataclass(frozen=True)
class SourcesRead:
    """Records of all sources that could be read, and the error text of each that could not."""

    records: pl.LazyFrame
    failures: Mapping[str, str]


def read_sources(sources: Mapping[str, Source], *, on_error: Literal["raise", "skip"] = "raise") -> SourcesRead:
    """Records of several sources, in the order given.

    Raises:
        SourceError: a source failed and `on_error` is "raise", or none could be read.
    """
    tables: list[pl.LazyFrame] = []
    failures: dict[str, str] = {}
    for name, config in sources.items():
        try:
            tables.append(read_source(name, config))
        except SourceError as error:
            if on_error == "raise":
                raise
            failures[name] = str(error)
    if not tables:
        details = "; ".join(failures.values()) or "no source is configured"
        raise SourceError(f"no corpus: {details}")
    return SourcesRead(pl.concat(tables), failures)


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
    "load_catalog",
    "read_source",
    "read_sources",
]
