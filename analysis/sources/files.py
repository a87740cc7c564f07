"""Source kind `files`: local JSON lines, JSON, CSV, TSV and Parquet."""

import glob
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from analysis.sources.blocks import Table
from analysis.sources.csv_table import CsvTable
from analysis.sources.json_table import JsonTable
from analysis.sources.parquet_table import ParquetTable
from analysis.sources.reading import Reading, table_records
from analysis.sources.records import Notes, SourceError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class FilesSource:
    """Local files of one shape.

    Args:
        paths: files or globs (`data/**/*.jsonl`), relative to the working directory.
        columns: role -> column name; roles are prompt, input, completion, messages, system, history, task, split,
            licence and origin. Empty: one of the known shapes, see `analysis.sources.shapes`.
        task, licence: for every record that has none of its own.
        split: for every record, whatever the files say.
        roles: who speaks where messages have other role names: `{narrator: user}`; see `analysis.sources.chat`.
        splits: sides where a `split` column has other names: `{extra: train}`; see `analysis.sources.splits`.
        encoding: of text files, as Python names it; None: by the byte order mark, else UTF-8.
        separator, quote, escape: of CSV and TSV, see `analysis.sources.csv_table.CsvTable`.
    """

    paths: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    task: str | None = None
    split: str | None = None
    licence: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)
    encoding: str | None = None
    separator: str | None = None
    quote: str = '"'
    escape: str | None = None

    def __post_init__(self) -> None:
        if not self.paths:
            raise SourceError("paths is empty; expected at least one file or glob")
        self.reading()

    def reading(self) -> Reading:
        """What it says about columns."""
        return Reading(self.columns, self.task, self.split, self.licence, self.roles, self.splits)


def file_blocks(name: str, config: FilesSource, notes: Notes) -> Iterator[pl.DataFrame]:
    """Records of all files, in the order of their paths, block by block.

    Raises:
        SourceError: no such file, an unknown suffix, a broken line, a missing column, no record; names the file.
    """
    n_records = 0
    for path in expand(config.paths):
        own = Notes()
        try:
            for block in table_records(table_of(path, config), name, config.reading(), path.name, own):
                n_records += len(block)
                yield block
        except SourceError as error:
            raise SourceError(f"{path}: {error}") from error
        for text in own.texts:
            notes.add(f"{path}: {text}")
    if not n_records:
        raise SourceError(f"no records in {list(config.paths)}")


def matching_files(pattern: str) -> list[Path]:
    """Files that a path or a glob names, sorted; a path that exists is no glob."""
    plain = Path(pattern).expanduser()
    if plain.is_file():
        return [plain]
    return sorted(path for match in glob.glob(str(plain), recursive=True) if (path := Path(match)).is_file())


def expand(patterns: tuple[str, ...]) -> list[Path]:
    """All files, each once, sorted.

    Raises:
        SourceError: a pattern matches none.
    """
    paths: set[Path] = set()
    for pattern in patterns:
        files = matching_files(pattern)
        if not files:
            raise SourceError(f"no file matches {pattern!r} (looked from {Path.cwd()})")
        paths.update(files)
    return sorted(paths)


def table_of(path: Path, config: FilesSource) -> Table:
    """The table in a file; the suffix names the format."""
    if path.stat().st_size == 0:
        raise SourceError("the file is empty")
    match path.suffix.lower():
        case ".parquet":
            return ParquetTable(path)
        case ".csv" | ".tsv" as suffix:
            default = "\t" if suffix == ".tsv" else ","
            return CsvTable(path, config.encoding, config.separator, config.quote, config.escape, default)
        case ".jsonl" | ".ndjson" | ".json":
            return JsonTable(path, config.encoding)
        case suffix:
            raise SourceError(f"unknown suffix {suffix!r}; expected one of {', '.join(SUFFIXES)}")
