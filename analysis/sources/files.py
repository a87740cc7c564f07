"""Source kind `files`: local JSON lines, JSON, CSV, TSV and Parquet."""

import glob
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from analysis.sources.records import SourceError
from analysis.sources.shapes import Columns, to_records

PATH_COLUMN = "__path__"
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class FilesSource:
    """Local files of one shape.

    Args:
        paths: files or globs (`data/**/*.jsonl`), relative to the working directory.
        columns: role -> column name; roles are prompt, input, completion, messages, task, split, licence and origin.
            Empty: one of the known shapes, see `analysis.sources.shapes`.
        task, licence: for every record, where the files have no such column.
        split: for every record, whatever the files say.
    """

    paths: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    task: str | None = None
    split: str | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        if not self.paths:
            raise SourceError("paths is empty; expected at least one file or glob")
        if self.columns:
            Columns(self.columns)


def read_files(name: str, config: FilesSource) -> pl.LazyFrame:
    """Records of all files, lazily, in the order of their paths.

    Raises:
        SourceError: no such file, an unknown suffix, a broken line, a missing column, or no record at all.
    """
    tables = [_file_records(name, path, config) for path in _expand(config.paths)]
    records = pl.concat(tables)
    if records.select(pl.len()).collect(engine="streaming").item() == 0:
        raise SourceError(f"no records in {list(config.paths)}")
    return records


def _expand(patterns: tuple[str, ...]) -> list[Path]:
    paths: set[Path] = set()
    for pattern in patterns:
        matches = [Path(match) for match in glob.glob(str(Path(pattern).expanduser()), recursive=True)]
        files = [path for path in matches if path.is_file()]
        if not files:
            raise SourceError(f"no file matches {pattern!r} (looked from {Path.cwd()})")
        paths.update(files)
    return sorted(paths)


def _file_records(name: str, path: Path, config: FilesSource) -> pl.LazyFrame:
    try:
        return to_records(
            scan_file(path),
            name,
            config.columns,
            origin=pl.lit(path.name),
            task=config.task,
            split=config.split,
            licence=config.licence,
        )
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from error


def scan_file(path: Path) -> pl.LazyFrame:
    """The table in a file, lazily where its format allows; the suffix names the format.

    Bytes that are not UTF-8 become U+FFFD, which the cleaning step drops and counts.
    """
    if path.stat().st_size == 0:
        raise SourceError("the file is empty")
    try:
        match path.suffix.lower():
            case ".parquet":
                table = pl.scan_parquet(path)
            case ".csv":
                table = _scan_separated(path, ",")
            case ".tsv":
                table = _scan_separated(path, "\t")
            case ".jsonl" | ".ndjson":
                table = _scan_json_lines(path)
            case ".json":
                table = _scan_json(path)
            case suffix:
                raise SourceError(f"unknown suffix {suffix!r}; expected one of {', '.join(SUFFIXES)}")
        table.collect_schema()
    except pl.exceptions.PolarsError as error:
        raise SourceError(f"not readable as {path.suffix}: {error}") from error
    return table


def _scan_separated(path: Path, separator: str) -> pl.LazyFrame:
    # every column as text: an answer "007" must stay what it is
    table = pl.scan_csv(path, separator=separator, encoding="utf8-lossy", infer_schema=False)
    table.select(pl.all().null_count()).collect(engine="streaming")  # a line with too many fields fails here, not later
    return table


def _scan_json_lines(path: Path) -> pl.LazyFrame:
    # the whole file decides the types: a field may first appear, or turn into text, in the last line
    table = pl.scan_ndjson(path, infer_schema_length=None)
    try:
        table.collect_schema()
    except pl.exceptions.PolarsError:
        text = _decoded_lines(path)
        table = pl.scan_ndjson(io.BytesIO(text.encode()), infer_schema_length=None)
    return table


def _decoded_lines(path: Path) -> str:
    """The lines of a file that polars refused, decoded leniently; the first that is not a JSON object is named."""
    lines = []
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise SourceError(f"line {number} is not JSON: {error}") from error
            if not isinstance(value, dict):
                raise SourceError(f"line {number}: expected a JSON object, got {type(value).__name__}")
            lines.append(line.strip())
    return "\n".join(lines)


def _scan_json(path: Path) -> pl.LazyFrame:
    """A JSON array of objects, or JSON lines under the wrong suffix."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        text = file.read().lstrip()
    if not text.startswith("["):
        return _scan_json_lines(path)
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise SourceError(f"not JSON: {error}") from error
    if not rows:
        raise SourceError("no records: the JSON array is empty")
    if not all(isinstance(row, dict) for row in rows):
        raise SourceError("expected a JSON array of objects, got other values in it")
    return pl.from_dicts(rows, infer_schema_length=None).lazy()
