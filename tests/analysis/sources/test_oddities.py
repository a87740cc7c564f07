"""Files that are read although they are odd: dialects, encodings, packed files, types of Parquet, names."""

import bz2
import gzip
import json
import lzma
import struct
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.sources import FilesSource, SourceError, read_source, read_sources
from tests.analysis.sources.writers import NOT_UTF8, PAIR, conversation, notes, parquet_of, read


@pytest.mark.parametrize(
    ("content", "config", "expected"),
    [
        (b"prompt,completion\n\x93p\x94,c\n", {"encoding": "latin-1"}, ("\u201cp\u201d", "c")),
        ('id,prompt,completion,note\n1,p,c,6" nails\n', {}, ("p", "c")),
        ('prompt,completion\n"say \\"hi\\", now","C:\\\\"\n', {}, ('say "hi", now', "C:\\")),
        ('prompt,completion\n"C:\\",c\n', {}, ("C:\\", "c")),
        ("prompt;completion\nHi, there;Yo\n", {}, ("Hi, there", "Yo")),
        ("sep=;\nprompt;completion\np;c\n", {}, ("p", "c")),
        ('prompt, completion\np, "c, d"\n', {}, ("p", "c, d")),
        ("prompt,completion\r\rp,c\r", {}, ("p", "c")),
        ("\ufeff\ufeffprompt,completion\np,c\n", {}, ("p", "c")),
        ("\n\nprompt,completion\np,c\n\n", {}, ("p", "c")),
        ("prompt~completion\np~c\n", {"separator": "~"}, ("p", "c")),
        ('prompt\tcompletion\n"Hi" she said\tc\n', {"quote": ""}, ('"Hi" she said', "c")),
        ("prompt,completion\n'a, b',c\n", {"quote": "'"}, ("a, b", "c")),
        ('prompt,completion\n"a ^"b^"",c\n', {"escape": "^"}, ('a "b"', "c")),
    ],
)
def test_dialects_of_csv(
    tmp_path: Path, content: str | bytes, config: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert read(tmp_path / "a.csv", content, **config) == [expected]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "latin-1", "gbk", "shift-jis", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = "caf\xe9" if encoding in ("latin-1", "cp1252") else "\u4f60\u597d" if encoding == "gbk" else "\u3042\u30bd"
    text = text if encoding != "utf-32" else "\U0001f600"
    named = {} if encoding.startswith(("utf-16", "utf-32", "utf-8")) else {"encoding": encoding}
    lines = json.dumps({"prompt": text, "completion": "c"}, ensure_ascii=False) + "\n"
    assert read(tmp_path / "a.jsonl", lines.encode(encoding), **named) == [(text, "c")]
    assert read(tmp_path / "a.csv", f"prompt,completion\n{text},c\n".encode(encoding), **named) == [(text, "c")]


def packed_with(name: str, data: bytes) -> bytes:
    stream = pa.BufferOutputStream()
    with pa.CompressedOutputStream(stream, name) as file:
        file.write(data)
    return bytes(stream.getvalue())


PACKED = [gzip.compress, bz2.compress, lzma.compress, *(partial(packed_with, name) for name in ("zstd", "lz4"))]


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2", ".xz", ".lz4"])
def test_packed_text_under_any_name(tmp_path: Path, packed: Callable[[bytes], bytes], suffix: str) -> None:
    assert read(tmp_path / f"a.jsonl{suffix}", packed(PAIR.encode())) == [("p", "c")]
    assert read(tmp_path / f"a.b.CSV{suffix}", packed(b"prompt,completion\np,c\n")) == [("p", "c")]


SKIPPED = [struct.pack("<2I", 0x184D2A50 + i, n) + bytes(n) for i, n in ((0, 4), (15, 0))]
"""Frames of zstd and lz4 that readers skip, as pzstd writes them."""


@pytest.mark.parametrize("packed", PACKED)
def test_all_streams_of_a_packed_file_are_read(tmp_path: Path, packed: Callable[[bytes], bytes]) -> None:
    one, n = packed(PAIR.encode()), 3_000
    assert len(read(tmp_path / "a.jsonl", one * n)) == n
    with pytest.raises(SourceError, match="fetch it or pack it again"):
        read(tmp_path / "a.jsonl", one * 2 + b"and something else")
    if packed is lzma.compress:
        assert len(read(tmp_path / "a.jsonl", (one + bytes(8)) * n)) == n  # padding, which the format allows
        assert len(read(tmp_path / "a.jsonl", one + bytes(1 << 17) + one)) == 2
    if packed in PACKED[-2:]:
        for place in range(3):
            pieces = [one, one]
            pieces[place:place] = SKIPPED
            assert len(read(tmp_path / "a.jsonl", b"".join(pieces))) == 2


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for files in (r"\*\.jsonl", r"data-\*\.arrow"):
        with pytest.raises(SourceError, match=rf"It is a folder: name its files, as in .*/{files}"):
            read_source("mine", FilesSource((str(tmp_path),)))
        (tmp_path / "state.json").touch()
        (tmp_path / "data.arrow").touch()


def test_other_names_are_explained_by_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    line = conversation(("Narrator", "x"), ("poet", "y"))
    assert read(path, line, roles={"narrator": "user", "Poet": "assistant"}) == [("x", "y")]
    rows = "prompt,completion,split\n" + "".join(
        f"p,c,{name}\n" for name in ("Training", "test_sft", "held-out", "dev", "extra", "")
    )
    (tmp_path / "a.csv").write_text(rows)
    source = FilesSource((str(tmp_path / "a.csv"),), splits={"Extra": "train"})
    assert read_source("x", source).collect()["split"].to_list() == ["train", "test", "test", "test", "train", None]


def test_class_labels_of_parquet_are_named(tmp_path: Path) -> None:
    label = {"_type": "ClassLabel", "names": ["negative", "positive"]}
    table = pa.table({"prompt": ["a", "b", "c"], "completion": [1, 0, None]})
    description = json.dumps({"info": {"features": {"completion": label}}})
    pq.write_table(table.replace_schema_metadata({"huggingface": description}), tmp_path / "a.parquet")
    records = read_source("x", FilesSource((str(tmp_path / "a.parquet"),))).collect()
    assert records["completion"].to_list() == ["positive", "negative", ""]


def test_plain_types_of_parquet(tmp_path: Path) -> None:
    values: dict[str, tuple[list[Any], pa.DataType, list[str]]] = {
        "dictionary": (["x", None], pa.dictionary(pa.int32(), pa.string()), ["x", ""]),
        "large": (["x", None], pa.large_string(), ["x", ""]),
        "decimal": ([1.5, None], pa.decimal128(5, 2), ["1.50", ""]),
        "long decimal": ([1.5, None], pa.decimal256(50, 9), ["1.500000000", ""]),
        "whole decimal": ([1.5, None], pa.decimal256(50, 0), ["2", ""]),
        "coarse decimal": ([1.5, None], pa.decimal128(9, -3), ["2000", ""]),
        "zone": ([datetime(2024, 5, 6), None], pa.timestamp("us", "+05:30"), ["2024-05-06 05:30:00+05:30", ""]),
        "float": ([0.1, float("nan")], pa.float64(), ["0.1", ""]),
        "fixed list": ([["x", "y"], None], pa.list_(pa.string(), 2), ["x\ny", ""]),
        "null": ([None, None], pa.null(), ["", ""]),
    }
    for column, dtype, expected in values.values():
        from decimal import Decimal

        if pa.types.is_decimal(dtype):
            column = [Decimal(expected[0]), None]
        table = pa.table({"prompt": ["p", "q"], "completion": pa.array(column, dtype)})
        paths = [tmp_path / "a.arrow"]
        with pa.ipc.new_file(paths[0], table.schema) as file:
            file.write_table(table)
        if expected[0] != "2000":  # Parquet has no such type
            paths.append(tmp_path / "a.parquet")
            pq.write_table(table, paths[1])
        for path in paths:
            assert read_source("x", FilesSource((str(path),))).collect()["completion"].to_list() == expected


def test_maps_of_parquet_are_objects(tmp_path: Path) -> None:
    turns = [[("role", "user"), ("content", "u")], [("role", "assistant"), ("content", "a")]]
    column = pa.array([turns], pa.list_(pa.map_(pa.string(), pa.string())))
    assert read(tmp_path / "a.parquet", parquet_of(column, "messages")) == [("u", "a")]


def test_bytes_of_parquet_that_are_not_utf8_are_marked_and_not_lost(tmp_path: Path) -> None:
    assert read(tmp_path / "a.parquet", parquet_of(NOT_UTF8)) == [("p", "Zo\ufffd"), ("p", "c")]


def test_a_source_that_is_not_kept_in_memory_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.sources.KEEP_BYTES", 0)
    (tmp_path / "a.jsonl").write_text("".join(f'{{"prompt": "p{i}", "completion": "c"}}\n' for i in range(40_000)))
    records = read_source("x", FilesSource((str(tmp_path / "a.jsonl"),)))
    assert records.collect()["prompt"].to_list() == [f"p{i}" for i in range(40_000)]
    assert records.select("prompt").head(3).collect()["prompt"].to_list() == ["p0", "p1", "p2"]
    assert records.filter(pl.col("prompt") == "p39999").collect().height == 1


def test_a_file_is_read_once_and_a_lost_one_is_an_error(tmp_path: Path) -> None:
    for name in ("a.jsonl", "test.jsonl"):
        (tmp_path / name).write_text(PAIR)
    (tmp_path / "linked.jsonl").symlink_to(tmp_path / "a.jsonl")
    (tmp_path / "loop").symlink_to(tmp_path)
    paths = (str(tmp_path / "**/*.jsonl"), str(tmp_path / "loop/a.jsonl"), str(tmp_path / "a.jsonl"))
    result = read_sources({"x": FilesSource(paths)})
    assert result.records.collect().height == 2
    assert "test.jsonl: the name says test" in " ".join(result.notes["x"])
    (tmp_path / "dev").mkdir()
    held_out = ("dev/0000", "x_test", "x-test-00000-of-00002", "val2017", "x_holdout", "testset", "hold-out.b")
    for name in (*held_out, "latest", "contest", "x_train", "test_train"):
        found = notes(tmp_path / f"{name}.jsonl", PAIR)
        assert ("the name says test" in found) == (name in held_out), name
    (tmp_path / "lost.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(SourceError, match=r"lost\.jsonl: .*No such file"):
        read_source("x", FilesSource(paths))


@pytest.mark.parametrize(
    "line",
    [
        PAIR.replace("}", ', "meta": 1, "meta": 2}'),  # twice in a column that is not read
        PAIR.replace("}", ', "prompt": "p"}'),  # twice the same
        "\ufeff" + PAIR,  # of files that were put together
        "\ufeff\ufeff" + PAIR,
        PAIR.replace("}", ', "messages": [], "instruction": " ", "output": "o"}'),  # blank is empty
    ],
)
def test_oddities_that_change_nothing(tmp_path: Path, line: str) -> None:
    assert read(tmp_path / "a.jsonl", PAIR + line) == [("p", "c")] * 2


def test_a_name_with_marks_of_a_glob_is_a_name_first(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_text(PAIR)
    assert read_source("x", FilesSource((str(tmp_path / "a[1].jsonl"),))).collect().height == 1
