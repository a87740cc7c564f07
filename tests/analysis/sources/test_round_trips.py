"""Any texts, written by a usual writer in each format, are read back exactly."""

import csv
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.sources import FilesSource, read_source

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
QUOTED = st.text("ab ,;\t\"'\\\n|é本", max_size=12)
ROWS = st.lists(st.tuples(TEXT | QUOTED, TEXT | QUOTED), min_size=1, max_size=6)
Pairs = list[tuple[str, str]]


def write_jsonl(path: Path, rows: Pairs) -> None:
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in rows))


def write_json(path: Path, rows: Pairs) -> None:
    path.write_text(json.dumps([{"prompt": p, "completion": c} for p, c in rows], ensure_ascii=False), "utf-8")


def write_csv(path: Path, rows: Pairs) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([("prompt", "completion"), *rows])


def write_parquet(path: Path, rows: Pairs) -> None:
    pl.DataFrame(rows, schema={"prompt": pl.String, "completion": pl.String}, orient="row").write_parquet(path)


WRITERS = {"jsonl": write_jsonl, "json": write_json, "csv": write_csv, "parquet": write_parquet}


@pytest.mark.parametrize("suffix", WRITERS)
@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_texts_come_back_as_they_were_written(suffix: str, rows: Pairs) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{suffix}"
        writer: Callable[[Path, Pairs], None] = WRITERS[suffix]
        writer(path, rows)
        records = read_source("any", FilesSource(paths=(str(path),))).select("prompt", "completion").collect()
    assert records.rows() == rows
