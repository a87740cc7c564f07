"""Local files: every format and shape, and the text of every error."""

import json
from pathlib import Path

import polars as pl
import pytest

from analysis.sources import RECORD_SCHEMA, FilesSource, SourceError, read_source, read_sources

ALPACA = [
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {"instruction": "Greet.", "input": "", "output": "Hello"},
]


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, **config: object) -> pl.DataFrame:
    return read_source("toy", FilesSource(paths=(str(path),), **config)).collect()  # type: ignore[arg-type]


def pairs(table: pl.DataFrame) -> list[tuple[str, str]]:
    return table.select("prompt", "completion").rows()


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow"])
def test_every_format_gives_the_same_records(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    table = pl.DataFrame(ALPACA)
    match suffix:
        case ".jsonl":
            write_lines(path, ALPACA)
        case ".json":
            path.write_text(json.dumps(ALPACA))
        case ".parquet":
            table.write_parquet(path)
        case ".arrow":
            table.write_ipc(path)
        case _:
            table.write_csv(path, separator="\t" if suffix == ".tsv" else ",")
    records = read(path)
    assert records.schema == RECORD_SCHEMA
    assert pairs(records) == [("Add.\n\n1 2", "3"), ("Greet.", "Hello")]
    assert records["source"].to_list() == ["toy", "toy"]
    assert records["origin"].to_list() == [path.name, path.name]


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        ({"prompt": "p", "completion": "c"}, "p", "c"),
        ({"prompt": "p", "response": "c"}, "p", "c"),
        ({"instruction": "i", "context": "x", "response": "r"}, "i\n\nx", "r"),
        ({"question": "q", "answer": "a"}, "q", "a"),
        ({"question": "q", "context": "x", "answer": 7}, "q\n\nx", "7"),
        ({"input": "i", "target": "t"}, "i", "t"),
    ],
)
def test_known_shapes(tmp_path: Path, row: dict[str, object], prompt: str, completion: str) -> None:
    assert pairs(read(write_lines(tmp_path / "a.jsonl", [row]))) == [(prompt, completion)]


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("messages", "prompt", "completion"),
    [
        ([message("user", "Hi"), message("assistant", "Yo")], "Hi", "Yo"),
        ([message("system", "Be kind."), message("user", "Hi"), message("assistant", "Yo")], "Be kind.\n\nHi", "Yo"),
        (
            [message("user", "1"), message("assistant", "2"), message("user", "3"), message("assistant", "4")],
            "User: 1\n\nAssistant: 2\n\nUser: 3",
            "4",
        ),
        ([message("user", "1"), message("assistant", "2"), message("user", "3")], "1", "2"),
        ([message("user", "Hi")], "Hi", ""),  # no answer: the cleaning step drops it as empty
    ],
)
def test_chat_messages(tmp_path: Path, messages: list[dict[str, str]], prompt: str, completion: str) -> None:
    assert pairs(read(write_lines(tmp_path / "a.jsonl", [{"messages": messages}]))) == [(prompt, completion)]


def test_sharegpt_conversations(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]
    assert pairs(read(write_lines(tmp_path / "a.jsonl", [{"conversations": turns}]))) == [("Hi", "Yo")]


def test_labels_of_the_file_are_kept(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "completion": "c", "category": "qa", "split": split, "license": "MIT", "url": "http://x"}
        for split in ("train", "Test", "validation", "")
    ]
    records = read(write_lines(tmp_path / "a.jsonl", rows))
    assert records["split"].to_list() == ["train", "test", "test", None]
    assert records.row(0, named=True) | {"split": None} == {
        "source": "toy",
        "task": "qa",
        "split": None,
        "prompt": "p",
        "completion": "c",
        "licence": "MIT",
        "origin": "http://x",
    }


def test_constants_of_the_configuration(tmp_path: Path) -> None:
    records = read(write_lines(tmp_path / "a.jsonl", ALPACA), task="t", split="test", licence="CC0-1.0")
    assert records.select("task", "split", "licence").unique().rows() == [("t", "test", "CC0-1.0")]


def test_mapping_reaches_into_structures_and_joins_lists(tmp_path: Path) -> None:
    rows = [{"q": "why", "context": {"parts": ["a", "b"]}, "reply": {"text": "so"}}]
    mapping = {"prompt": "q", "input": "context.parts", "completion": "reply.text"}
    assert pairs(read(write_lines(tmp_path / "a.jsonl", rows), columns=mapping)) == [("why\n\na\nb", "so")]


def test_labels_are_found_beside_a_mapping_and_split_is_overruled(tmp_path: Path) -> None:
    rows = [{"q": "p", "a": "c", "split": "train", "licence": "MIT", "kind": "x", "task": "y"}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    mapping = {"prompt": "q", "completion": "a", "task": "kind"}
    assert read(path, columns=mapping).select("task", "split", "licence").rows() == [("x", "train", "MIT")]
    found = read(path, columns=mapping, split="test", licence="CC0-1.0").select("split", "licence")
    assert found.rows() == [("test", "MIT")]


def test_a_field_may_appear_or_change_its_type_in_the_last_line(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"prompt": "p", "completion": 1}] * 300
    rows.append({"prompt": "p", "completion": "one", "task": "late"})
    records = read(write_lines(tmp_path / "a.jsonl", rows))
    assert records["completion"].unique().sort().to_list() == ["1", "one"]
    assert records["task"].drop_nulls().to_list() == ["late"]


def test_leading_zeros_of_a_csv_survive(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nWho?,007\n")
    assert pairs(read(tmp_path / "a.csv")) == [("Who?", "007")]


def test_globs_are_sorted_and_files_of_different_columns_fit(tmp_path: Path) -> None:
    write_lines(tmp_path / "b.jsonl", [{"prompt": "b", "completion": "1", "task": "x"}])
    write_lines(tmp_path / "a.jsonl", [{"question": "a", "answer": "2"}])
    config = FilesSource(paths=(str(tmp_path / "b.jsonl"), str(tmp_path / "*.jsonl")))
    assert pairs(read_source("toy", config).collect()) == [("a", "2"), ("b", "1")]


def test_bytes_that_are_not_utf8_are_marked_and_not_lost(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "Zo\xeb", "completion": "c"}\n{"prompt": "p", "completion": "c"}\n')
    (tmp_path / "b.csv").write_bytes(b"prompt,completion\nZo\xeb,c\n")
    assert read(tmp_path / "a.jsonl")["prompt"].to_list() == ["Zo\ufffd", "p"]
    assert read(tmp_path / "b.csv")["prompt"].to_list() == ["Zo\ufffd"]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.jsonl", '{"prompt": "p", "completion": "c"}\n{oops\n', "a.jsonl: line 2 is not JSON"),
        (
            "a.jsonl",
            '{"prompt": "p", "completion": "c"}\n\n[1]\n',
            "a.jsonl: line 3: expected a JSON object, got a list of numbers",
        ),
        ("a.json", '[{"prompt": "p"', "a.json: line 1 is not JSON"),
        ("a.json", "[]", "the JSON array is empty"),
        ("a.json", "[1]", "expected a JSON array of objects"),
        ("a.jsonl", "", "the file is empty"),
        ("a.csv", "prompt,completion\n", "no records in"),
        ("a.csv", "prompt,completion\na,b\na,b,c\n", "a.csv: line 3: 3 fields where the header has 2"),
        ("a.parquet", "no parquet", "a.parquet: not readable as .parquet"),
        ("a.txt", "hello", "unknown suffix '.txt'; expected one of .jsonl"),
        ("a.csv", "foo,bar\n1,2\n", r"no known shape in the columns \['foo', 'bar'\].*Map them yourself"),
    ],
)
def test_unreadable_files_name_the_place(tmp_path: Path, name: str, content: str, error: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=f"source 'toy': .*{error}"):
        read(tmp_path / name)


def test_missing_file_and_column_say_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"source 'toy': no file matches .*nothing-\*"):
        read(tmp_path / "nothing-*.jsonl")
    path = write_lines(tmp_path / "a.jsonl", [{"q": "p", "a": "c", "l": [1]}])
    with pytest.raises(SourceError, match=r"no column 'x'; found \['q', 'a', 'l'\]"):
        read(path, columns={"prompt": "x", "completion": "a"})
    with pytest.raises(SourceError, match=r"a.jsonl: record 1, column 'l': found a list of numbers; expected text"):
        read(path, columns={"prompt": "q", "completion": "l"})
    with pytest.raises(SourceError, match=r"unknown roles \['prompts'\]"):
        FilesSource(paths=("a",), columns={"prompts": "q"})
    with pytest.raises(SourceError, match="expected `prompt` and `completion`, or `messages`"):
        FilesSource(paths=("a",), columns={"prompt": "q"})
    with pytest.raises(SourceError, match="paths is empty"):
        FilesSource(paths=())


def test_a_failing_source_stops_or_is_reported(tmp_path: Path) -> None:
    good = FilesSource(paths=(str(write_lines(tmp_path / "a.jsonl", ALPACA)),))
    bad = FilesSource(paths=(str(tmp_path / "missing.jsonl"),))
    with pytest.raises(SourceError, match="source 'bad'"):
        read_sources({"good": good, "bad": bad})
    result = read_sources({"bad": bad, "good": good}, on_error="skip")
    assert result.records.collect()["source"].unique().to_list() == ["good"]
    assert list(result.failures) == ["bad"]
    assert "missing.jsonl" in result.failures["bad"]
    with pytest.raises(SourceError, match="no corpus: source 'bad'"):
        read_sources({"bad": bad}, on_error="skip")


def test_real_corpora_are_recognised(shared_corpora: Path) -> None:
    for name in ("gsm8k", "medquad", "flan10"):
        config = FilesSource(paths=(str(shared_corpora / f"{name}_*.parquet"),))
        records = read_source(name, config).collect()
        raw = pl.concat(pl.read_parquet(path) for path in sorted(shared_corpora.glob(f"{name}_*.parquet")))
        assert records["completion"].to_list() == raw["output"].to_list()
        assert records["split"].to_list() == raw["split"].to_list()
        assert records["task"].to_list() == raw["task"].to_list()
        assert records["licence"].null_count() == 0
