"""The source of each file, for users who name files and nothing else."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import polars as pl

from analysis.sources import SourcesRead, read_sources
from analysis.sources.files import (
    NO_DATA,
    SHARD,
    SUFFIXES,
    FilesSource,
    as_text,
    each_once,
    format_of,
    is_entry,
    matching_files,
    stem_of,
)
from analysis.sources.records import SourceError
from analysis.sources.splits import side_of

NUMBERED = re.compile(r"part[-.]\d+.*|0\d{3,}")
"""Names of parts that say nothing of their table, as Spark, Dask and the hub's converter give them."""
NOT_READ = (
    *(".xlsx", ".xls", ".ods", ".zip", ".tar", ".tgz", ".7z", ".pkl", ".pickle", ".avro", ".orc", ".xml", ".db"),
    *(".sqlite", ".jsonlines", ".jl"),
)
"""Formats in which people keep data, and which are left out of a folder with a note."""
OF_ANALYSIS = ("analysis.json", "map.parquet", "summary.json")
"""Files that `hydralora analyze` puts beside its folder `corpus_model`."""
RESULTS = {"artifact.json", "corpus_model.json", "classifier.json"}
"""A folder with one of these holds results of hydralora, which are no data."""


def named_sources(paths: Sequence[str | Path], columns: Mapping[str, str] | None = None) -> dict[str, FilesSource]:
    """A source for each file, named after it. Shards of one table are one source, and so are its splits.

    `gsm8k_train.jsonl` and `gsm8k_test.jsonl` are the source `gsm8k`, and must have a column `split`. Files with equal
    names in two folders are named with their folders.

    Args:
        paths: files, globs or folders; of a folder, every data file below it.
        columns: role -> column, for all files; see `FilesSource`. Empty: the shape of each file is recognised.

    Raises:
        SourceError: a path matches no data file, or a name is not UTF-8.
    """
    files = each_once(file for path in paths for file in _files(str(path)))
    if odd := [as_text(file) for file in files if as_text(file) != str(file)]:
        raise SourceError(f"{odd[0]}: expected the name of a file in UTF-8. Rename it")
    tables: dict[Path, list[Path]] = {}
    for file in files:
        tables.setdefault(_table(file), []).append(file)
    groups: dict[Path, list[Path]] = {}
    for table, parts in tables.items():
        groups.setdefault(_without_split(table, list(tables)), []).extend(parts)
    names = _names(list(groups))
    return {names[group]: FilesSource(tuple(map(str, parts)), dict(columns or {})) for group, parts in groups.items()}


def left_out(paths: Sequence[str | Path]) -> Iterator[str]:
    """A note on each folder that has data in other formats, which `named_sources` leaves out."""
    for folder in filter(Path.is_dir, (Path(path).expanduser() for path in paths)):
        others = sorted(path.name for path in _below(folder) if format_of(path) in NOT_READ)
        if others:
            yield f"{folder}: files of other formats are not read: {len(others)}, such as {others[0]}. Convert them"


def read_named(sources: Mapping[str, FilesSource]) -> SourcesRead:
    """Records of the sources of `named_sources`.

    Raises:
        SourceError: a file cannot be read, or a source is named by splits and has none (see `check_splits`).
    """
    read = read_sources(sources)
    if any(len(source.paths) > 1 for source in sources.values()):
        found = read.records.select("source", "split").unique().collect()
        for name, source in sources.items():
            check_splits(source, found.filter(pl.col("source") == name)["split"].to_list())
    return read


def check_splits(config: FilesSource, splits: Sequence[str | None]) -> None:
    """Refuse files that are named after splits but have no column that says which records are held out.

    Raises:
        SourceError: a record of such files has no split.
    """
    held_out = [path for path in config.paths if _side(_table(Path(path)).name) == "test"]
    if held_out and len(config.paths) > len(held_out) and None in splits:
        raise SourceError(
            f"{held_out[0]}: expected a column `split`, because its name says that these records are held out, got "
            "none. Give the training files alone, or add the column to all of them"
        )


def _files(pattern: str) -> list[Path]:
    folder = Path(pattern).expanduser()
    if pattern and folder.is_dir():  # an empty name would be this folder
        found = sorted(path for path in _below(folder) if format_of(path) in SUFFIXES)
    else:
        found = matching_files(pattern)
    if not found:
        raise SourceError(
            f"no data file matches {pattern!r} (looked from {Path.cwd()}); expected {', '.join(SUFFIXES)}, or a "
            "folder with such files"
        )
    return found


def _below(folder: Path) -> Iterator[Path]:
    """The files below a folder, without hidden ones, which belong to tools, and without results of hydralora.

    Raises:
        SourceError: a folder cannot be read; its files would be missing without a word.
    """

    def refuse(error: OSError) -> NoReturn:
        raise SourceError(f"{error.filename}: expected a folder that can be read ({error.strerror})")

    for root, folders, names in os.walk(folder, onerror=refuse):
        is_store = "runs" in folders and any(Path(root).glob("*/*/artifact.json"))
        if is_store or (RESULTS & set(names) and Path(root) != folder):
            folders.clear()
            continue
        others = OF_ANALYSIS if "corpus_model" in folders else ()
        folders[:] = [name for name in folders if not name.startswith(".")]
        chosen = (name for name in names if not (name.startswith(".") or name in others or NO_DATA.fullmatch(name)))
        yield from (path for name in chosen if is_entry(path := Path(root, name)))


def _table(file: Path) -> Path:
    """The path without suffix and number of a shard; the folder, if the name has nothing else."""
    table = file.with_name(SHARD.sub("", stem_of(file)))
    is_saved = format_of(file) == ".arrow" and table.name == "data"
    return file.parent if is_saved or NUMBERED.fullmatch(table.name) else table


def _side(stem: str) -> str | None:
    return side_of(re.split(r"[-_.]", stem)[-1], {})


def _without_split(table: Path, tables: Sequence[Path]) -> Path:
    """The table without the split at the end of its name, if another split of the same table is there too."""
    if _side(table.name) is None:
        return table
    base = re.sub(r"[-_.]?[^-_.]+$", "", table.name)
    siblings = [other for other in tables if other.parent == table.parent and _side(other.name) is not None]
    same = [other for other in siblings if re.sub(r"[-_.]?[^-_.]+$", "", other.name) == base]
    if not base and same:  # data/train.jsonl, or the shards of a hub's data set
        return table.parent
    return table.with_name(base) if len(same) > 1 else table


def _names(groups: Sequence[Path]) -> dict[Path, str]:
    """The shortest ending of each path that is unique."""
    names = {}
    for group in groups:
        parts = [part for part in group.absolute().parts if part != "/"] or [group.name]
        for length in range(1, len(parts) + 1):
            end = parts[-length:]
            if sum(list(other.absolute().parts[-length:]) == end for other in groups) == 1:
                break
        names[group] = "/".join(end)
    return names
