"""Source kind `files`: local JSON lines, JSON, CSV, TSV, Parquet and Arrow."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from analysis.sources.formats.blocks import Table
from analysis.sources.formats.csv_table import CsvTable
from analysis.sources.formats.encodings import check_encoding
from analysis.sources.formats.json_table import JsonTable
from analysis.sources.formats.parquet_table import ArrowTable, ParquetTable
from analysis.sources.reading import Reading, table_records
from analysis.sources.records import DAMAGED, READ_ERRORS, Notes, SourceError, said_by
from analysis.sources.splits import TEST_NAMES, side_of_name

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
NO_DATA = re.compile(
    r"(config|dataset_infos?|dataset_dict|state|adapter_config|serving)\.json|cache-.*\.arrow", re.IGNORECASE
)
"""Files that `datasets` and exports put beside others."""
SHARD = re.compile(r"[-_.]\d{5}-of-\d{5}$")
"""Endings by which publishers number the parts of one table: `train-00000-of-00002.parquet`."""
COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".lz4")
"""May follow the suffix of a text file: `a.jsonl.gz`."""


@dataclass(frozen=True)
class FilesSource:
    """Local files of one shape.

    Args:
        paths: files or globs (`data/**/*.jsonl`), relative to the working directory.
        columns: role -> column name. Roles are prompt, input, completion, messages, system, history, task, split,
            licence and origin. If empty, one of the known shapes is detected; see `analysis.sources.shapes`.
        task, licence: values for records that have none of their own.
        split: split of every record; overrides the files.
        roles: meaning of uncommon role names in messages: `{narrator: user}`; see `analysis.sources.chat`.
        splits: meaning of uncommon names in a `split` column: `{extra: train}`; see `analysis.sources.splits`.
        encoding: name of a Python encoding for text files. None takes it from the byte order mark, else UTF-8.
        separator, quote, escape: dialect of CSV and TSV files; see `analysis.sources.formats.csv_table.CsvTable`.
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
        if self.encoding is not None:
            check_encoding(self.encoding)
        CsvTable(Path(), self.encoding, self.separator, self.quote, self.escape)  # checks the dialect

    def reading(self) -> Reading:
        """The part of the configuration that describes the columns."""
        return Reading(self.columns, self.task, self.split, self.licence, self.roles, self.splits)


def file_blocks(name: str, config: FilesSource, notes: Notes, *, is_piece: bool = False) -> Iterator[pl.DataFrame]:
    """Records of all files, in the order of their paths, block by block.

    Args:
        is_piece: whether the only file is a piece of a file of JSON lines.

    Raises:
        MissingColumnsError: a file lacks a needed column; raised after its blocks.
        SourceError: a file is missing, a suffix is unknown, a line is broken, or there is no record. The message names
            the file.
    """
    n_records = 0
    for path in expand(config.paths):
        own, has_split = Notes(), False
        try:
            table = JsonTable(path, config.encoding, is_lines=True) if is_piece else table_of(path, config)
            for block in table_records(table, name, config.reading(), as_text(path.name), own):
                n_records += len(block)
                has_split = has_split or block["split"].null_count() < len(block)
                yield block
        except SourceError as error:
            raise error.at(as_text(path)) from error
        except READ_ERRORS as error:
            damaged = isinstance(error, DAMAGED) or (isinstance(error, OSError) and error.errno is None)  # of a decoder
            way_out = ". The file is cut off or damaged: fetch it or pack it again" if damaged else ""
            raise SourceError(f"{as_text(path)}: {said_by(error)}{way_out}") from error
        names = (SHARD.sub("", stem_of(path)), path.parent.name)  # test/0000.parquet
        is_test = side_of_name(names[0]) == "test" or names[1].casefold() in TEST_NAMES
        if not has_split and is_test:
            own.add(
                "the name says test, but the records have no split, so cleaning divides them. If they are test "
                "documents, make them a source of their own, with split: test"
            )
        for text in own.texts:
            notes.add(f"{as_text(path)}: {text}")
    if not n_records:
        raise SourceError(f"no records in {list(config.paths)}")


def matching_files(pattern: str) -> list[Path]:
    """The files that a path or glob matches, sorted. A path that exists is never treated as a glob.

    A link to a missing file counts as a match, so that reading it fails. A file with several names counts once.
    """
    plain = Path(pattern).expanduser()
    return each_once([plain] if is_entry(plain) else filter(is_entry, map(Path, glob.glob(str(plain), recursive=True))))


def each_once(paths: Iterable[Path]) -> list[Path]:
    """The files, sorted. Of several names of one file (links, paths with `..`) the first is taken."""
    return list({_identity(path): path for path in sorted(paths, reverse=True)}.values())[::-1]


def is_entry(path: Path) -> bool:
    """Whether a path is a file or a broken link. A link that leads back to itself is neither."""
    try:
        return path.is_file() or (path.is_symlink() and path.stat() is None)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _identity(path: Path) -> object:
    """A key for a file. All its names (links, paths with `..`) give the same key."""
    return (path.stat().st_dev, path.stat().st_ino) if path.exists() else path


def as_text(path: Path | str) -> str:
    """A path as valid text. File names may contain bytes that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def expand(patterns: tuple[str, ...]) -> list[Path]:
    """All files, each once, sorted.

    Raises:
        SourceError: a pattern matches no file.
    """
    paths: list[Path] = []
    for pattern in patterns:
        files = matching_files(pattern)
        if not files:
            hint = f". It is a folder: name its files, as in {_in_folder(pattern)}" if Path(pattern).is_dir() else ""
            raise SourceError(f"no file matches {pattern!r} (looked from {Path.cwd()}){hint}")
        paths += files
    return each_once(paths)


def _in_folder(folder: str) -> str:
    """A glob for the data files of a folder, which `save_to_disk` may have written."""
    saved = [path for pattern in ("*.arrow", "*/*.arrow") for path in sorted(Path(folder).glob(pattern))]
    return str(saved[0].parent / "data-*.arrow") if saved else f"{folder.rstrip('/')}/*.jsonl"


def format_of(path: Path) -> str:
    """The suffix that says which format a file has: `.jsonl` of `a.JSONL.gz`."""
    packed = len(path.suffixes) > 1 and path.suffix.lower() in COMPRESSED
    return (path.with_suffix("") if packed else path).suffix.lower()


def stem_of(path: Path) -> str:
    """The name of a file without the suffixes of its format: `a` of `a.jsonl.gz`."""
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).stem


def table_of(path: Path, config: FilesSource) -> Table:
    """The table in a file. Its suffix determines the format."""
    if path.stat().st_size == 0:
        raise SourceError("the file is empty")
    match format_of(path):
        case ".parquet":
            return ParquetTable(path)
        case ".arrow" | ".feather":
            return ArrowTable(path)
        case ".csv" | ".tsv" as suffix:
            default = "\t" if suffix == ".tsv" else ","
            return CsvTable(path, config.encoding, config.separator, config.quote, config.escape, default)
        case ".jsonl" | ".ndjson" | ".json":
            return JsonTable(path, config.encoding)
        case suffix:
            raise SourceError(f"unknown suffix {suffix!r}; expected one of {', '.join(SUFFIXES)}. Convert the file")
