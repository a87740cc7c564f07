"""Source kind `hub`: a data set on the Hugging Face hub, pinned to a revision, read through `datasets`.

Only data files are read: `datasets` runs no code from a repository, and no option here allows it. If a data set needs a
token, it comes from the environment (`HF_TOKEN`), never from a configuration.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from analysis.sources.files import NO_DATA, SUFFIXES, FilesSource, as_text, format_of, table_of
from analysis.sources.formats.blocks import Table
from analysis.sources.formats.dataset_table import DatasetTable, local_files
from analysis.sources.formats.labels import LabelledTable, Names
from analysis.sources.reading import Reading, table_records
from analysis.sources.records import READ_ERRORS, Notes, SourceError, UnreachableError, said_by
from analysis.sources.splits import side_of

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
"""Id of a data set or a model on the hub, `owner/name` or `name`."""


@dataclass(frozen=True)
class HubSource:
    """A data set of a hub, or a local folder of the same layout.

    Args:
        dataset: hub id (`databricks/databricks-dolly-15k`) or a local folder.
        revision: the 40 hex digits of a commit, because a branch or a tag can move; None only for a local folder.
        subset: name of the configuration, if the data set has several.
        columns: role -> column, see `FilesSource`. If empty, one of the known shapes is detected.
        task, licence: values for records that have none of their own.
        tasks: tasks of a collection to keep, with or without a version (`glue/mnli:2.0.0`). Empty keeps all.
        roles, splits: meaning of uncommon names, see `FilesSource`. `splits` also applies to the name in `split`.
    """

    dataset: str
    revision: str | None = None
    split: str = "train"
    subset: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    task: str | None = None
    licence: str | None = None
    tasks: tuple[str, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reading()

    def check_pinned(self) -> None:
        """Refuse a missing folder, and a revision that can move. Reading does it, so that such a source can be skipped.

        Raises:
            SourceError: neither a folder that exists, nor a data set with a commit.
        """
        if Path(self.dataset).is_dir() or (self.revision is not None and COMMIT.fullmatch(self.revision)):
            return
        if not HUB_ID.fullmatch(self.dataset):
            raise SourceError(
                f"{self.dataset}: expected an id on the hub (owner/name), or a folder that exists (looked from "
                f"{Path.cwd()})"
            )
        raise SourceError(
            f"{self.dataset}: expected the commit as revision (40 hex digits), got {self.revision!r}. Take it from "
            f"the page `Files and versions` of the data set, so that a later run reads the same data"
        )

    def reading(self) -> Reading:
        """The part of the configuration that describes the columns. Cleaning divides a split of unknown meaning."""
        side = side_of(self.split, self.splits)
        return Reading(self.columns, self.task, side, self.licence, self.roles, self.splits)


def hub_blocks(name: str, config: HubSource, notes: Notes) -> Iterator[pl.DataFrame]:
    """Records of one split, block by block. A local folder's files are read directly.

    Raises:
        SourceError: the data set, revision, split or column does not exist, or the revision is no commit.
        UnreachableError: the hub does not respond.
    """
    config.check_pinned()
    where = f"{config.dataset}@{config.revision}" if config.revision else config.dataset
    for place, table in _tables(config, notes):
        try:
            for block in table_records(table(), name, config.reading(), where, notes):
                yield block.filter(_kept_tasks(config.tasks))
        except SourceError as error:
            raise error.at(place) from error
        except READ_ERRORS as error:
            raise SourceError(f"{place}: {said_by(error)}") from error


def _kept_tasks(tasks: tuple[str, ...]) -> pl.Expr:
    return pl.col("task").str.split(":").list.first().is_in(tasks) if tasks else pl.lit(True)


def _tables(config: HubSource, notes: Notes) -> Iterator[tuple[str, Callable[[], Table]]]:
    """Each table of a split, with its place for error messages."""
    if Path(config.dataset).is_dir():
        found = _asked(config, lambda: local_files(config.dataset, config.subset, config.split, _is_readable))
        if found.left_out:
            notes.add(
                f"files that `datasets` gives to no split are not read: {len(found.left_out)}, such as "
                f"{as_text(found.left_out[0])}. Read them as `files`"
            )
        for path in found.paths:
            yield str(path), partial(_labelled, path, found.labels)
        if found.paths:
            return
    dataset = _asked(config, lambda: _load(config))
    _check_revision(dataset, config)
    place = f"{config.dataset}, split {config.split!r}"
    yield place, lambda: DatasetTable(dataset, lambda text: notes.add(f"{place}: {text}"))


def _is_readable(path: Path) -> bool:
    return format_of(path) in SUFFIXES and path.is_file() and not NO_DATA.fullmatch(path.name)


def _labelled(path: Path, labels: Names) -> Table:
    return LabelledTable(table_of(path, FilesSource((str(path),))), labels)


def _load(config: HubSource) -> Any:
    import datasets

    return datasets.load_dataset(
        config.dataset, config.subset, split=config.split, revision=config.revision, token=None
    )


def _asked(config: HubSource, call: Any) -> Any:
    """The result of a `datasets` call. Its errors become a SourceError that names the data set."""
    try:
        return call()
    except SourceError:
        raise
    except Exception as error:  # whatever the readers of `datasets` raise, such as BadZipFile
        kind = UnreachableError if isinstance(error, ConnectionError | TimeoutError) else SourceError
        cause = f" ({error.__cause__})" if error.__cause__ is not None else ""
        raise kind(
            f"{config.dataset}, subset {config.subset}, split {config.split!r}, revision {config.revision}: "
            f"{error}{cause}"
        ) from error


def _check_revision(dataset: Any, config: HubSource) -> None:
    """Refuse another revision: if the requested one is not found, `datasets` takes any cached one and only logs it."""
    files = [Path(entry["filename"]) for entry in dataset.cache_files]
    if config.revision and files and config.revision not in files[0].parts:
        raise SourceError(
            f"{config.dataset}: the hub did not give revision {config.revision}, and the cache has only another "
            f"({files[0].parent.name}). Check the revision and the connection"
        )
