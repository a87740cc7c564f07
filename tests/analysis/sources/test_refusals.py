"""Files that cannot be read as what they claim to be: one clear error each, and what is read beside a note."""

import bz2
import gzip
import io
import json
import lzma
import struct
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.sources import FilesSource, SourceError, read_source, read_sources

PAIR = '{"prompt": "p", "completion": "c"}\n'
NOT_UTF8 = pa.Array.from_buffers(pa.string(), 2, pa.array([b"Zo\xeb", b"c"]).buffers())


def conversation(*turns: tuple[str, Any]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}) + "\n"


def parquet_of(column: pa.Array, name: str = "completion") -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["p"] * len(column), name: column}), file)
    return file.getvalue()


def damaged_arrow() -> bytes:
    """A file in which the second text of each column ends a million bytes behind the file."""
    file = io.BytesIO()
    table = pa.table({"prompt": ["p", "q"], "completion": ["c", "d"]})
    with pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return file.getvalue().replace(struct.pack("<3i", 0, 1, 2), struct.pack("<3i", 0, 1, 1_000_000))


PICTURE = [{"type": "image_url", "image_url": {"url": "http://x"}}]
REFUSED: list[tuple[str, str | bytes, dict[str, Any], str]] = [
    # JSON
    ("a.jsonl", PAIR * 3 + "null\n", {}, "line 4: expected a JSON object, got null"),
    ("a.jsonl", PAIR + '{"prompt": "p", "comp', {}, "line 2 is not JSON: Unterminated string at character 17$"),
    ("a.jsonl", PAIR + PAIR.strip() + PAIR, {}, "line 2 is not JSON: Extra data at character 35"),
    ("a.jsonl", '{"prompt": "p",\n"completion": "c"}\n{oops}', {}, "line 3 is not JSON"),
    (
        "a.jsonl",
        PAIR + '{"prompt": {"a": 1}, "completion": "c"}\n',
        {},
        "line 2, column 'prompt': found an object with",
    ),
    (
        "a.jsonl",
        PAIR + '{"prompt": [1, "x"], "completion": "c"}\n',
        {},
        "line 2, column 'prompt': found a list of numb",
    ),
    ("a.json", '{"prompt": {"0": "p"}, "completion": {"0": "c"}}', {}, 'an object of columns.*orient="records"'),
    ("a.json", '{"prompt": ["p"], "completion": ["c"]}', {}, "an object of columns"),
    ("a.json", f'{{"train": [{PAIR}], "test": [{PAIR}]}}', {}, r"several lists of objects \['train', 'test'\]"),
    ("a.json", '{"version": 1, "rows": 3}', {}, r"no known shape in the columns \['version', 'rows'\]"),
    ("a.json", '{"dialog": [{"role": "user", "content": "u"}]}', {}, r"no known shape in the columns \['dialog'\]"),
    (
        "a.json",
        json.dumps({f"id{i}": {"prompt": "p"} for i in range(3_000)}),
        {},
        r"in the columns \[[^]]*'id19'\] and 2,980 more\. Known",
    ),
    (
        "a.jsonl",
        '{"question": "q", "answer": "a", "context": {"title": ["t"]}}\n',
        {},
        "column 'context': found an object .* Say under `columns` what to read: column.field",
    ),
    ("a.json", '"a text"', {}, "value 1 of the file: expected a JSON object, got the text 'a text'"),
    ("a.jsonl", PAIR + "[" * 100_000 + "\n", {}, "line 2: the JSON is nested too deep"),
    ("a.jsonl", '{"prompt": ' + "[" * 100_000 + "\n" + PAIR, {}, "line 1: the JSON is nested too deep"),
    (
        "a.jsonl",
        PAIR + '{"prompt": "p", "prompt": "q", "completion": "c"}\n',
        {},
        "line 2, column 'prompt': .*field twice",
    ),
    ("a.json", '[{"prompt": "p", "completion": "c", "completion": "d"}]', {}, "record 1, column 'completion': .*twice"),
    (
        "a.jsonl",
        '{"messages": [{"role": "user", "content": "u", "content": "v"}]}\n' * 2,
        {},
        "line 1, column 'messages': an object has a field twice",
    ),
    ("a.jsonl", "# notes\n" + PAIR, {}, "line 1 is not JSON: .* JSON has no comments"),
    ("a.json", '[{"prompt": "p", // first\n"completion": "c"}]', {}, "line 1 is not JSON: .* JSON has no comments"),
    ("a.json", "[" + PAIR + ",]", {}, "line 2 is not JSON: .* Remove the comma before it"),
    ("a.jsonl", PAIR.replace("}", "},") * 2, {}, "line 1 is not JSON: .* Remove the comma"),
    ("a.jsonl", PAIR.replace('"', "'") * 2, {}, "line 1 is not JSON: .* JSON has double quotes"),
    ("a.jsonl", PAIR.replace('"c"', "None") * 2, {}, "line 1 is not JSON: .* JSON writes null, true and false"),
    # preference data
    (
        "a.jsonl",
        PAIR.replace("}", ', "label": true}') + PAIR.replace("}", ', "label": false}'),
        {},
        "line 2, column 'label'",
    ),
    ("a.csv", "prompt,completion,label\np,c,False\n", {}, "line 2, column 'label': found false"),
    ("a.jsonl", '{"prompt": "p", "chosen": "c", "rejected": "d"}\n', {}, "completion: chosen"),
    ("a.jsonl", '{"dialog": []}\n' * 2, {}, "columns: {messages: <column>}"),
    # messages without a text
    ("a.jsonl", '{"messages": [{"role": "user", "text": "hi"}]}\n' * 2, {}, "line 1, .* without content or value"),
    ("a.jsonl", '{"messages": [{"role": "user", "parts": [{"text": "hi"}]}]}\n' * 2, {}, "line 1, .* Rename the field"),
    # conversations
    (
        "a.jsonl",
        conversation(("narrator", "x"), ("poet", "y")) * 2,
        {},
        r"line 1, .*\['narrator', 'poet'\].*roles: \{\"n",
    ),
    ("a.jsonl", conversation((0, "x"), (1, "y")) * 2, {}, r"line 1, column 'messages': unknown roles.*\['0', '1'\]"),
    (
        "a.jsonl",
        conversation(("user", PICTURE), ("assistant", "y")) * 2,
        {},
        "line 1, .*content part of type 'image_url'",
    ),
    (
        "a.jsonl",
        conversation(("user", [{"text": None, "image": "x"}]), ("assistant", "y")) * 2,
        {},
        "line 1, .*content part of type None with the fields .*'image'",
    ),
    (
        "a.jsonl",
        conversation(("user", {"a": 1}), ("assistant", "y")) * 2,
        {},
        "line 1, column 'messages': found a content",
    ),
    ("a.jsonl", '{"messages": ["hi"]}\n' * 2, {}, "line 1, column 'messages': found the text 'hi' among the messages"),
    ("a.jsonl", '{"messages": [{"text": "hi"}]}\n' * 2, {}, "found an object with the fields .* as a message"),
    (
        "a.csv",
        "messages\n\"[{'role': 'user'}]\"\n",
        {},
        "line 2, column 'messages': found the text .* also as JSON text",
    ),
    (
        "a.jsonl",
        '{"instruction": "i", "output": "o", "history": ["x"]}\n' * 2,
        {},
        "column 'history': found the text 'x'",
    ),
    # splits
    ("a.csv", "prompt,completion,split\np,c,train\np,c,tset\n", {}, r"line 3: unknown names of splits: \['tset'\]"),
    (
        "a.jsonl",
        '{"prompt": "p", "completion": "c", "split": {"a": 1}}\n' * 2,
        {},
        "line 1, column 'split': found an object",
    ),
    ("a.jsonl", PAIR, {"split": "tset"}, "split: got 'tset', expected a common name"),
    ("a.jsonl", PAIR, {"splits": {"x": "validation"}}, "splits: expected each name to mean train or test"),
    ("a.jsonl", PAIR, {"roles": {"x": "poet"}}, "roles: expected each name to mean one of"),
    # CSV
    ("a.csv", "prompt,completion\na,b\nc,d\ne,f,g\n", {}, "line 4: 3 fields where the header has 2"),
    ("a.csv", "Report\n\nprompt,completion\na,b\n", {}, "line 3: 2 fields .* Remove the lines before the names"),
    ("a.csv", 'prompt,completion\n"a\nb",c\nd\n', {}, "line 4: 1 fields where the header has 2"),
    ("a.csv", 'prompt,completion\na,b\n"6" nails",d\n', {}, "line 3: a quote ends before the field does"),
    ("a.csv", 'prompt,completion\na,b\n"c,d\ne,f\n', {}, "line 3: a quote is opened here and never closed"),
    ("a.csv", 'prompt,completion\n"say \\"hi\\"",C:\\new\n', {}, "line 2: a quote ends before the field does"),
    ("a.csv", "prompt,prompt,completion\na,b,c\n", {}, r"the header names \['prompt'\] more than once"),
    ("a.csv", "prompt,completion\na,b\nprompt,completion\nc,d\n", {}, "line 3: the header again"),
    ("a.csv", "prompt,completion\na,b\n\ufeffprompt,completion\n", {}, "line 3: the header again"),
    ("a.csv", "a,b\nc,d\n", {"separator": ";;"}, "separator: expected one character, got ';;'"),
    # encodings
    ("a.jsonl", PAIR.encode("utf-16-le"), {}, "looks like UTF-16 without a mark; name it: encoding: utf-16-le"),
    ("a.csv", "prompt,completion\np,c\n".encode("utf-16-be"), {}, "name it: encoding: utf-16-be"),
    (
        "a.csv",
        "prompt,completion\np,c\n".encode("utf-16"),
        {"encoding": "utf-8"},
        "mark says utf-16, but encoding names",
    ),
    ("a.jsonl", PAIR, {"encoding": "utf-16"}, "no byte order mark; .* with encoding utf-16"),
    ("a.csv", "prompt,completion\n\u00e9\u00e8\u00e0\u00fc,c\n", {"encoding": "latin-1"}, "but the file is UTF-8"),
    ("a.jsonl", PAIR + "\0" * 500, {}, "begins with NUL bytes"),
    # other kinds of files
    ("a.jsonl", b"PAR1" + b"0" * 99, {}, "the file is a Parquet file"),
    ("a.csv", b"\xd0\xcf\x11\xe0" + b"\0" * 99, {}, "the file is an old Office file"),
    ("a.json", "<!DOCTYPE html><html>", {}, "the file is a web page"),
    ("a.jsonl", "version https://git-lfs.github.com/spec/v1\noid", {}, "a pointer of Git LFS"),
    ("a.parquet", "version https://git-lfs.github.com/spec/v1\noid", {}, "a pointer of Git LFS"),
    # packed files
    (
        "a.jsonl",
        gzip.compress(gzip.compress(PAIR.encode(), mtime=0), mtime=0),
        {},
        "the file is compressed twice, with gzip",
    ),
    ("a.jsonl.gz", gzip.compress(PAIR.encode() * 999, mtime=0)[:60], {}, "Truncated .* fetch it or pack it again"),
    ("a.parquet", b"PAR1" + b"\0" * 60, {}, "not readable as .parquet .*write it again"),
    ("a.jsonl.xz", lzma.compress(PAIR.encode())[:-9], {}, "Compressed file ended before .* fetch it or pack it again"),
    ("a.jsonl.xz", lzma.compress(PAIR.encode())[:32] + b"0" * 60, {}, "Corrupt input data.* fetch it or pack it again"),
    ("a.csv", b"7z\xbc\xaf" + b"\0" * 9, {}, "the file is a 7z archive; .*Unpack it first"),
    ("a.jsonl", b"PK\x03\x04" + b"0" * 99, {}, "the file is a zip archive"),
    (
        "a.parquet",
        parquet_of(pa.array([timedelta(1)])),
        {},
        "row 1, column 'completion': found a value of type timedelta",
    ),
    ("a.arrow", damaged_arrow(), {}, "not readable as .arrow: .*Write the table again"),
    (
        "a.parquet",
        parquet_of(pa.ListArray.from_arrays(pa.array([0, 1]), NOT_UTF8[:1])),
        {},
        "not readable as .parquet .*Invalid UTF8",
    ),
    ("a.arrow", PAIR, {}, "not readable as .arrow: .*Write the table again"),
    ("a.zip", PAIR, {}, "unknown suffix '.zip'"),
    ("a.gz", PAIR, {}, "unknown suffix '.gz'"),
    ("a.jsonl", PAIR, {"encoding": "latin1000"}, "encoding: got 'latin1000', expected a name that Python knows"),
]


@pytest.mark.parametrize(("name", "content", "config", "error"), REFUSED)
def test_one_clear_error_and_the_others_go_on(
    tmp_path: Path, name: str, content: str | bytes, config: dict[str, Any], error: str
) -> None:
    path, good = tmp_path / name, tmp_path / "good.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    good.write_text(PAIR)
    if (
        config.keys() & {"split", "splits", "roles", "separator", "encoding"}
        and "expected" in error
        and "with" not in error
    ):
        with pytest.raises(SourceError, match=error):
            FilesSource((str(path),), **config)
        return
    bad = FilesSource((str(path),), **config)
    with pytest.raises(SourceError, match=rf"source 'mine': .*{name}: .*{error}"):
        read_source("mine", bad)
    result = read_sources({"bad": bad, "good": FilesSource((str(good),))}, on_error="skip")
    assert list(result.failures) == ["bad"]
    assert result.records.collect().height == 1


def read(path: Path, content: str | bytes, **config: Any) -> list[tuple[str, str]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_source("mine", FilesSource((str(path),), **config)).collect().select("prompt", "completion").rows()


def notes(path: Path, content: str | bytes, **config: Any) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return " ".join(read_sources({"mine": FilesSource((str(path),), **config)}).notes.get("mine", ()))


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


def test_what_was_not_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert notes(path, "prompt,completion\np,c\n") == ""
    found = notes(path, "prompt,completion\np,c\ncaf\xe9,c\n\xe9,c\n".encode("latin-1"))
    assert "rows with U+FFFD, which stands for bytes that were lost: 2 (the first: line 3)" in found
    assert "encoding: latin-1" in found
    found = notes(tmp_path / "b.jsonl", '{"prompt": "cut \\ud83d", "completion": "c"}\n' + PAIR)
    assert "half of a surrogate pair, such as \\ud83d without its second half: 1 (the first: line 1)" in found
    assert "encoding" not in found
    assert "column 'system' is not read" in notes(
        path, "q,a,system\np,c,s\n", columns={"prompt": "q", "completion": "a"}
    )
    path = tmp_path / "a.jsonl"
    assert "column 'tools' is not read" in notes(path, '{"prompt": "p", "completion": "c", "tools": [{}]}\n')
    assert "task is not taken from column 'task'" in notes(
        path, '{"prompt": "p", "completion": "c", "task": {"a": 1}}\n'
    )
    message = {"role": "assistant", "content": "a", "reasoning": "because", "tool_calls": [{"arguments": "{}"}]}
    row = json.dumps({"messages": [{"role": "user", "content": "u"}, message]})
    assert "not read: ['reasoning', 'tool_calls without a name']" in notes(path, row)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "q", "choices": ["x", "y"], "answer": 1}, "column 'choices' is not read"),
        ({"question": "q", "options": {"A": "x"}, "answer": "A"}, "column 'options' is not read"),
        ({"question": "q", "A": "x", "B": "y", "answer": "A"}, "column 'A' is not read"),
        (
            {"prompt": "p", "completion": "c", "messages": [{"role": "user", "content": "u"}]},
            r"columns ['completion', 'prompt'] are read only where ['messages'] are empty",
        ),
        ({"prompt": "p", "completion": "c", "response": "r"}, "columns ['response'] are read only where"),
        ({"instruction": "i", "input": "x", "output": "o"}, ""),
        ({"question": "q", "passage": "x", "answer": True}, "column 'passage' is not read"),
        (
            {"context": "x", "messages": [{"role": role, "content": "x"} for role in ("user", "assistant")]},
            "column 'context' is not read",
        ),
        ({"instruction": "i", "question": "q", "answer": "a"}, "column 'instruction' is not read"),
        ({"prompt": "<image> p", "completion": "c", "image": "x.png"}, "column 'image' is not read"),
        ({"prompt": "p", "completion": "c", "partition": "test"}, "column 'partition' is not read"),
        (
            {"messages": [{"role": "user", "content": "u", "value": "v"}, {"role": "assistant", "content": "a"}]},
            "these fields of messages are not read: ['value (beside content)']",
        ),
        ({"prompt": "p", "completion": "c", "is_test": True}, "column 'is_test' is not read"),
        ({"prompt": "p", "completion": "c", "label": True}, ""),
        ({"prompt": "p", "completion": "c", "label": 0}, ""),
        (
            {"messages": [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]},
            "conversations that end with a question: 1 (the first: record 1, column 'messages')",
        ),
        *(
            (
                {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", **mark}]},
                "weight: 0 or train: false (do not train on this message)",
            )
            for mark in ({"weight": 0}, {"weight": 0.0}, {"weight": False}, {"train": 0})
        ),
        ({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "weight": 1}]}, ""),
        (
            {
                "messages": [
                    {"role": role, "content": {"text": {"value": "x", "annotations": [1]}}}
                    for role in ("user", "assistant")
                ]
            },
            "annotations of texts",
        ),
    ],
)
def test_what_may_be_read_otherwise_is_said(tmp_path: Path, row: dict[str, Any], expected: str) -> None:
    found = notes(tmp_path / "a.jsonl", json.dumps(row))
    assert expected in found
    assert bool(expected) == bool(found)


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
        "float": ([0.1, float("nan")], pa.float64(), ["0.1", ""]),
        "fixed list": ([["x", "y"], None], pa.list_(pa.string(), 2), ["x\ny", ""]),
        "null": ([None, None], pa.null(), ["", ""]),
    }
    for column, dtype, expected in values.values():
        from decimal import Decimal

        column = [Decimal("1.50") if pa.types.is_decimal(dtype) and value else value for value in column]
        pq.write_table(pa.table({"prompt": ["p", "q"], "completion": pa.array(column, dtype)}), tmp_path / "a.parquet")
        records = read_source("x", FilesSource((str(tmp_path / "a.parquet"),))).collect()
        assert records["completion"].to_list() == expected


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
    assert "the name says test" in notes(tmp_path / "dev" / "0000.jsonl", PAIR)
    (tmp_path / "lost.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(SourceError, match=r"lost\.jsonl: .*No such file"):
        read_source("x", FilesSource(paths))


@pytest.mark.parametrize(
    "line",
    [
        PAIR.replace("}", ', "meta": 1, "meta": 2}'),  # twice in a column that is not read
        PAIR.replace("}", ', "prompt": "p"}'),  # twice the same
        "\ufeff" + PAIR,  # of files that were put together
        PAIR.replace("}", ', "messages": [], "instruction": " ", "output": "o"}'),  # blank is empty
    ],
)
def test_oddities_that_change_nothing(tmp_path: Path, line: str) -> None:
    assert read(tmp_path / "a.jsonl", PAIR + line) == [("p", "c")] * 2


def test_a_name_with_marks_of_a_glob_is_a_name_first(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_text(PAIR)
    assert read_source("x", FilesSource((str(tmp_path / "a[1].jsonl"),))).collect().height == 1
