"""Writes rows in every format that can be read, and reads single files."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.sources import FilesSource, HubSource, read_source, read_sources

Rows = list[dict[str, Any]]
Writer = Callable[[Path, Rows], FilesSource | HubSource]
Case = tuple[str, dict[str, Writer], Rows, list[tuple[str, str]]]
"""Name, formats, rows, and the pairs that are read from them."""


def as_lines(rows: Rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def json_file(name: str, text: Callable[[Rows], str]) -> Writer:
    def write(folder: Path, rows: Rows) -> FilesSource:
        (folder / name).write_text(text(rows), encoding="utf-8")
        return FilesSource((str(folder / name),))

    return write


def cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def separated(name: str, separator: str, encoding: str = "utf-8", quoting: int = csv.QUOTE_MINIMAL) -> Writer:
    def write(folder: Path, rows: Rows) -> FilesSource:
        names = list(dict.fromkeys(name for row in rows for name in row))
        with (folder / name).open("w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, delimiter=separator, quoting=quoting)
            writer.writerow(names)
            writer.writerows([cell(row.get(name)) for name in names] for row in rows)
        return FilesSource((str(folder / name),))

    return write


def table_of(rows: Rows) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.Table.from_pydict({name: [row.get(name) for row in rows] for name in names})


def parquet(folder: Path, rows: Rows) -> FilesSource:
    pq.write_table(table_of(rows), folder / "a.parquet")
    return FilesSource((str(folder / "a.parquet"),))


def arrow(folder: Path, rows: Rows) -> FilesSource:
    """As `save_to_disk` of datasets writes it."""
    table = table_of(rows)
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=1)
    return FilesSource((str(folder / "*.arrow"),))


def gzipped(folder: Path, rows: Rows) -> FilesSource:
    (folder / "a.jsonl").write_bytes(gzip.compress(as_lines(rows).encode()))
    return FilesSource((str(folder / "a.jsonl"),))


def hub_lines(folder: Path, rows: Rows) -> HubSource:
    (folder / "train.jsonl").write_text(as_lines(rows))
    return HubSource(str(folder))


def hub_parquet(folder: Path, rows: Rows) -> HubSource:
    pq.write_table(table_of(rows), folder / "train-00000-of-00001.parquet")
    return HubSource(str(folder))


JSON: dict[str, Writer] = {
    "lines": json_file("a.jsonl", as_lines),
    "lines and blank lines": json_file("a.ndjson", lambda rows: "\n" + as_lines(rows).replace("\n", "\r\n \n")),
    "lines under .json": json_file("a.json", as_lines),
    "array": json_file("a.json", json.dumps),
    "array under .jsonl": json_file("a.jsonl", lambda rows: json.dumps(rows, indent=1)),
    "wrapped": json_file("a.json", lambda rows: json.dumps({"version": 2, "data": rows})),
    "pretty-printed": json_file("a.jsonl", lambda rows: "\n".join(json.dumps(row, indent=2) for row in rows)),
    "gzip": gzipped,
    "hub, lines": hub_lines,
}
CSV: dict[str, Writer] = {
    "csv": separated("a.csv", ","),
    "csv with a mark": separated("a.csv", ",", "utf-8-sig"),
    "csv, all quoted": separated("a.csv", ",", quoting=csv.QUOTE_ALL),
    "csv, UTF-16": separated("a.csv", ",", "utf-16"),
    "semicolons": separated("a.csv", ";"),
    "bars": separated("a.csv", "|"),
    "tabs in csv": separated("a.csv", "\t"),
    "tsv": separated("a.tsv", "\t"),
}
PARQUET: dict[str, Writer] = {"parquet": parquet, "arrow": arrow, "hub, parquet": hub_parquet}
TEXT, ALL = JSON | CSV, JSON | CSV | PARQUET


def in_every_format(cases: list[Case]) -> pytest.MarkDecorator:
    """The cases as parameters of a test, each in all of its formats."""
    return pytest.mark.parametrize(
        ("write", "rows", "expected"),
        [
            pytest.param(writer, rows, expected, id=f"{case}-{name}")
            for case, writers, rows, expected in cases
            for name, writer in writers.items()
        ],
    )


PAIR = '{"prompt": "p", "completion": "c"}\n'
NOT_UTF8 = pa.Array.from_buffers(pa.string(), 2, pa.array([b"Zo\xeb", b"c"]).buffers())


def conversation(*turns: tuple[str, Any]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}) + "\n"


def parquet_of(column: pa.Array, name: str = "completion") -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["p"] * len(column), name: column}), file)
    return file.getvalue()


def read(path: Path, content: str | bytes, **config: Any) -> list[tuple[str, str]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_source("mine", FilesSource((str(path),), **config)).collect().select("prompt", "completion").rows()


def notes(path: Path, content: str | bytes, **config: Any) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return " ".join(read_sources({"mine": FilesSource((str(path),), **config)}).notes.get("mine", ()))
