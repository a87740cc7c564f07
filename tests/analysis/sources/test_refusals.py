"""Files that cannot be read as what they claim to be: one clear error each."""

import gzip
import io
import json
import lzma
import struct
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from analysis.sources import FilesSource, SourceError, read_source, read_sources
from tests.analysis.sources.writers import NOT_UTF8, PAIR, conversation, parquet_of


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
        conversation(("user", [{"type": "text", "content": "hi"}]), ("assistant", "y")) * 2,
        {},
        r"line 1, .*content part of type 'text' with the fields \['type', 'content'\]",
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
    (
        "a.jsonl",
        '{"prompt": "\u4f60", "completion": "c"}\n'.replace("c", "\u597d" * 3_000).encode("utf-16-le"),
        {},
        "name it: encoding: utf-16-le",
    ),
    # other kinds of files
    ("a.jsonl", b"PAR1" + b"0" * 99, {}, "the file is a Parquet file"),
    ("a.csv", b"\xd0\xcf\x11\xe0" + b"\0" * 99, {}, "the file is an old Office file"),
    ("a.json", "<!DOCTYPE html><html>", {}, "the file is a web page"),
    ("a.csv", "\n<html>\n<body>\n", {}, "the file is a web page"),
    ("a.jsonl", b"P*M\x18\4\0\0\0abcd", {}, "begins with control characters, as binary files do"),
    ("a.csv", bytes(range(256)), {}, "begins with control characters, as binary files do"),
    ("a.json", b"Obj\x01\xfe", {}, "line 1 is not JSON: .* control characters, as binary files do"),
    ("a.csv", PAIR, {}, "begins as JSON does, not as CSV. Rename it"),
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
