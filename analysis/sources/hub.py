"""Source kind `hub`: a data set on the Hugging Face hub, pinned to a revision, read through `datasets`.

Only data files are read: `datasets` runs no code of a repository, and nothing here would allow it to. A token, where a
data set needs one, comes from the environment (`HF_TOKEN`), never from a configuration.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from analysis.sources.records import SourceError
from analysis.sources.shapes import Columns, to_records

COMMIT = re.compile(r"[0-9a-f]{40}")
BATCH_ROWS = 8_192


@dataclass(frozen=True)
class HubSource:
    """A data set of a hub, or a local folder of the same layout.

    Args:
        dataset: hub id (`databricks/databricks-dolly-15k`) or a local folder.
        revision: the 40 hex digits of a commit, because a branch or a tag can move; None only for a local folder.
        split: name of the split to read.
        subset: name of the configuration, where the data set has several.
        columns: role -> column, see `FilesSource`; empty: one of the known shapes.
        task, licence: for every record, where the data set has no such column.
        tasks: of a collection, the tasks that are kept, with or without a version (`glue/mnli:2.0.0`); empty: all.
    """

    dataset: str
    revision: str | None = None
    split: str = "train"
    subset: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    task: str | None = None
    licence: str | None = None
    tasks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pinned = self.revision is not None and COMMIT.fullmatch(self.revision)
        if not pinned and not Path(self.dataset).is_dir():
            raise SourceError(
                f"{self.dataset}: expected the commit as revision (40 hex digits), got {self.revision!r}. Take it from "
                f"the page `Files and versions` of the data set, so that a later run reads the same data"
            )
        if self.columns:
            Columns(self.columns)


def read_hub(name: str, config: HubSource) -> pl.LazyFrame:
    """Records of one split, read in batches from the local cache that `datasets` fills.

    Raises:
        SourceError: no such data set, revision, split or column, or the hub cannot be reached.
    """
    dataset = _load(config)
    _check_revision(dataset, config)
    where = f"{config.dataset}@{config.revision}" if config.revision else config.dataset
    records = to_records(
        _scan(dataset),
        name,
        config.columns,
        origin=pl.lit(where),
        task=config.task,
        split=config.split,
        licence=config.licence,
    )
    if config.tasks:
        records = records.filter(pl.col("task").str.split(":").list.first().is_in(config.tasks))
    return records


def _load(config: HubSource) -> Any:
    import datasets

    try:
        return datasets.load_dataset(
            config.dataset, config.subset, split=config.split, revision=config.revision, token=None
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise SourceError(
            f"{config.dataset}, subset {config.subset}, split {config.split!r}, revision {config.revision}: {error}"
        ) from error


def _check_revision(dataset: Any, config: HubSource) -> None:
    """`datasets` takes any cached version when it does not find the one asked for, with no more than a log line."""
    files = [Path(entry["filename"]) for entry in dataset.cache_files]
    if config.revision and files and config.revision not in files[0].parts:
        raise SourceError(
            f"{config.dataset}: the hub did not give revision {config.revision}, and the cache has only another "
            f"({files[0].parent.name}). Check the revision and the connection"
        )


def _scan(dataset: Any) -> pl.LazyFrame:
    """The rows of a memory-mapped `datasets.Dataset`, lazily and in batches."""
    empty = pl.DataFrame(dataset.features.arrow_schema.empty_table())

    def batches(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        chosen = dataset if with_columns is None else dataset.select_columns(with_columns)
        chosen = chosen if n_rows is None else chosen.take(min(n_rows, len(chosen)))
        for block in chosen.with_format("arrow").iter(batch_size or BATCH_ROWS):
            frame = pl.DataFrame(block)
            yield frame if predicate is None else frame.filter(predicate)

    return register_io_source(batches, schema=empty.schema)
