"""What is read is what was written: every shape and oddity in every format that can hold it."""

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.sources import FilesSource, HubSource, read_source
from analysis.sources.records import RECORD_SCHEMA

Rows = list[dict[str, Any]]
Writer = Callable[[Path, Rows], FilesSource | HubSource]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this module's own: nothing is written into the user's."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def as_lines(rows: Rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def json_file(name: str, text: Callable[[Rows], str]) -> Writer:
    def write(folder: Path, rows: Rows) -> FilesSource:
        (folder / name).write_text(text(rows), encoding="utf-8")
        return FilesSource((str(folder / name),))

    return write


def cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def separated(name: str, separator: str, encoding: str = "utf-8") -> Writer:
    def write(folder: Path, rows: Rows) -> FilesSource:
        names = list(dict.fromkeys(name for row in rows for name in row))
        with (folder / name).open("w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, delimiter=separator)
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
    "csv, UTF-16": separated("a.csv", ",", "utf-16"),
    "semicolons": separated("a.csv", ";"),
    "bars": separated("a.csv", "|"),
    "tabs in csv": separated("a.csv", "\t"),
    "tsv": separated("a.tsv", "\t"),
}
PARQUET: dict[str, Writer] = {"parquet": parquet, "arrow": arrow, "hub, parquet": hub_parquet}
TEXT, ALL = JSON | CSV, JSON | CSV | PARQUET


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def part(text: Any) -> dict[str, Any]:
    return {"type": "text", "text": text}


CALL = {"type": "function", "function": {"name": "sky", "arguments": '{"at": "Rome"}'}}
CALLED = '<tool_call>\n{"name": "sky", "arguments": {"at": "Rome"}}\n</tool_call>'
HARD = 'a "quoted" word; a\ttab, a | bar, C:\\new\n\n  a line\u2028end, \u00e9\U0001f600'

CASES: list[tuple[str, dict[str, Writer], Rows, list[tuple[str, str]]]] = [
    ("pairs", ALL, [{"prompt": "p", "completion": "c"}, {"prompt": "q", "completion": "d"}], [("p", "c"), ("q", "d")]),
    (
        "hard text",
        ALL,
        [{"prompt": HARD, "completion": HARD}, {"prompt": "p", "completion": "c"}],
        [(HARD, HARD), ("p", "c")],
    ),
    (
        "null, empty and missing",
        ALL,
        [{"prompt": None, "completion": "c"}, {"prompt": "", "completion": "c"}, {"prompt": "p", "completion": None}],
        [("", "c"), ("", "c"), ("p", "")],
    ),
    (
        "texts of Assistants",
        ALL,
        [{"messages": [said(role, [part({"value": role})]) for role in ("user", "assistant")]}] * 2,
        [("user", "assistant")] * 2,
    ),
    ("a late column", ALL, [{"prompt": "p"}, {"prompt": "q", "completion": "d"}], [("p", ""), ("q", "d")]),
    (
        "inputs",
        ALL,
        [{"instruction": "i", "input": "x", "output": "o"}, {"instruction": "i", "input": None, "output": "o"}],
        [("i\n\nx", "o"), ("i", "o")],
    ),
    (
        "inputs that are filled",
        ALL,
        [{"instruction": "i", "input": n, "context": "x", "output": "o"} for n in ("", "y", "x", None)],
        [("i\n\nx", "o"), ("i\n\ny\n\nx", "o"), ("i\n\nx", "o"), ("i\n\nx", "o")],
    ),
    (
        "whole numbers",
        ALL,
        [{"question": "q", "answer": n} for n in (4, 2**53 + 1)],
        [("q", "4"), ("q", f"{2**53 + 1}")],
    ),
    ("truth values", ALL, [{"question": "q", "answer": n} for n in (True, False)], [("q", "true"), ("q", "false")]),
    (
        "numbers of all kinds",
        TEXT,
        [{"question": "q", "answer": n} for n in (4, 10**30, 0.5, "007", None)],
        [("q", "4"), ("q", f"{10**30}"), ("q", "0.5"), ("q", "007"), ("q", "")],
    ),
    (
        "a list of texts",
        JSON | PARQUET,
        [{"question": "q", "context": ["x", "y"], "answer": "a"}] * 2,
        [("q\n\nx\ny", "a")] * 2,
    ),
    (
        "a conversation",
        ALL,
        [{"messages": [said("system", "s"), said("user", "u"), said("assistant", "a")]}] * 2,
        [("s\n\nu", "a")] * 2,
    ),
    (
        "several turns",
        ALL,
        [{"messages": [said("user", "1"), said("assistant", "2"), said("user", "3"), said("assistant", "4")]}] * 2,
        [("User: 1\n\nAssistant: 2\n\nUser: 3", "4")] * 2,
    ),
    (
        "roles in any spelling",
        ALL,
        [
            {"conversations": [{"from": one, "value": "u"}, {"from": other, "value": "a"}]}
            for one, other in (("human", "gpt"), ("USER", "Assistant"), ("Human ", "ChatGPT"))
        ],
        [("u", "a")] * 3,
    ),
    (
        "content in parts",
        ALL,
        [{"messages": [said("user", [part("a"), part("b")]), said("assistant", [part("c")])]}] * 2,
        [("a\nb", "c")] * 2,
    ),
    (
        "parts and texts",
        TEXT,
        [
            {"messages": [said("user", [part("a")]), said("assistant", "c")]},
            {"messages": [said("user", "a"), said("assistant", [part("c")])]},
        ],
        [("a", "c")] * 2,
    ),
    (
        "names of fields mixed",
        TEXT,
        [{"messages": [said("user", "u"), {"from": "gpt", "value": "a"}]}] * 2,
        [("u", "a")] * 2,
    ),
    (
        "a tool",
        ALL,
        [
            {
                "messages": [
                    said("user", "?"),
                    said("assistant", None, tool_calls=[CALL]),
                    said("tool", "blue"),
                    said("assistant", "Blue."),
                ]
            }
        ]
        * 2,
        [(f"User: ?\n\nAssistant: {CALLED}\n\nTool: blue", "Blue.")] * 2,
    ),
    (
        "what a tool returns",
        TEXT,
        [
            {"messages": [said("user", "?"), said("tool", value), said("assistant", "a")]}
            for value in ([{"city": "Rome", "sun": 1.50}], {"type": "text", "text": "blue"}, ["x", 2], "blue")
        ],
        [(f"User: ?\n\nTool: {text}", "a") for text in ('[{"city": "Rome", "sun": 1.5}]', "blue", '["x", 2]', "blue")],
    ),
    (
        "results of tools in the user's message, and thoughts",
        JSON | PARQUET,
        [
            {
                "system": [part("s")],
                "messages": [
                    said("user", [part("?")]),
                    said("assistant", [{"type": "thinking", "thinking": "hm"}, part("wait")]),
                    said("user", [{"type": "tool_result", "content": [part("blue")]}, part("So?")]),
                    said("assistant", [part("Blue.")]),
                ],
            }
        ]
        * 2,
        [("s\n\nUser: ?\n\nAssistant: wait\n\nTool: blue\n\nUser: So?", "Blue.")] * 2,
    ),
    *(
        (
            f"a call as others write it: {sorted(call)}",
            JSON | PARQUET,
            [{"messages": [said("user", "?"), said("assistant", "", tool_calls=[call])]}] * 2,
            [("?", CALLED)] * 2,
        )
        for call in (
            {"name": "sky", "args": {"at": "Rome"}, "id": "1"},
            {"name": "sky", "parameters": {"at": "Rome"}},
            {"tool_name": "sky", "arguments": {"at": "Rome"}, "call_id": "1"},
            {"type": "custom", "custom": {"name": "sky", "input": '{"at": "Rome"}'}},
            {"function": "sky", "arguments": {"at": "Rome"}, "type": "function"},
            {"function": json.dumps(CALL["function"]), "index": "0"},
        )
    ),
    (
        "a call without content",
        JSON | PARQUET,
        [{"messages": [said("user", "?"), {"role": "assistant", "tool_calls": [CALL]}]}] * 2,
        [("?", CALLED)] * 2,
    ),
    *(
        (
            f"answers that must not be trained on: {marks}",
            ALL,
            [
                {
                    "messages": [
                        said("user", "u", **marks),
                        said("Assistant", "good"),
                        said("user", "v"),
                        said("Assistant", "bad", **marks),
                        said("user", "w"),
                    ]
                },
                {"messages": [said("user", "u"), said("Assistant", "bad", **marks)]},
            ],
            [("u", "good"), ("u", "")],
        )
        for marks in ({"weight": 0}, {"train": False}, {"loss": False}, {"trainable": False})
    ),
    (
        "thoughts in a channel of their own",
        ALL,
        [{"messages": [said("user", "u"), *(said("assistant", c, channel=c) for c in ("final", "analysis"))]}] * 2,
        [("u", "final")] * 2,
    ),
    (
        "a call as the answer",
        ALL,
        [{"messages": [said("user", "?"), said("assistant", None, tool_calls=[CALL])]}] * 2,
        [("?", CALLED)] * 2,
    ),
    (
        "prompts and completions as messages",
        JSON | PARQUET,
        [{"prompt": [said("system", "s"), said("user", "u")], "completion": [said("assistant", "a")]}] * 2,
        [("s\n\nu", "a")] * 2,
    ),
    (
        "completions that begin with the prompt again",
        JSON | PARQUET,
        [{"prompt": [said("user", "u")], "completion": [said("user", "u"), said("assistant", "a")]}] * 2,
        [("u", "a")] * 2,
    ),
    (
        "calls as texts",
        JSON,
        [
            {"messages": [said("user", "?"), said("assistant", "", tool_calls=[call])]}
            for call in (json.dumps(CALL), "f(1)")
        ],
        [("?", CALLED), ("?", "<tool_call>\nf(1)\n</tool_call>")],
    ),
    (
        "arguments that are no JSON",
        JSON,
        [{"messages": [said("user", "?"), said("assistant", "", tool_calls=[{"name": "sky", "input": "in Rome"}])]}]
        * 2,
        [("?", CALLED.replace('{"at": "Rome"}', '"in Rome"'))] * 2,
    ),
    (
        "arguments that other rows have",
        PARQUET,
        [
            {"messages": [said("user", "?"), said("assistant", None, tool_calls=[{"name": "sky", "args": args}])]}
            for args in ({"at": "Rome"}, {"in": "June", "days": [{"of": 1}, {"to": 2}]})
        ],
        [
            ("?", CALLED),
            ("?", CALLED.replace('"at": "Rome"', '"in": "June", "days": [{"of": 1}, {"to": 2}]')),
        ],
    ),
    (
        "an object of lists",
        JSON | PARQUET,
        [{"messages": {"role": ["user", "assistant"], "content": ["u", "a"]}}] * 2,
        [("u", "a")] * 2,
    ),
    (
        "a system column",
        ALL,
        [{"system": "s", "conversations": [said("user", "u"), said("assistant", "a")]}] * 2,
        [("s\n\nu", "a")] * 2,
    ),
    (
        "system columns of two names",
        JSON,
        [
            {"system": one, "system_prompt": other, "messages": [said("user", "u"), said("assistant", "a")]}
            for one, other in ((None, "s"), ("s", "s"), ("r", "s"))
        ],
        [("s\n\nu", "a"), ("s\n\nu", "a"), ("r\n\ns\n\nu", "a")],
    ),
    (
        "system and history",
        ALL,
        [
            {"system": "s", "instruction": "3", "output": "4", "history": [["1", "2"]]},
            {"system": None, "instruction": "5", "output": "6", "history": []},
        ],
        [("s\n\nUser: 1\n\nAssistant: 2\n\nUser: 3", "4"), ("5", "6")],
    ),
    (
        "system and history without a question",
        ALL,
        [
            {"system": "s", "instruction": None, "output": "o", "history": [["1", "2"]]},
            {"system": "s", "instruction": "", "output": "o", "history": [["1", "2"]]},
        ],
        [("", "o")] * 2,
    ),
    (
        "system without a question, and another shape",
        ALL,
        [
            {"system": "s", "prompt": "", "completion": "c", "instruction": None, "output": "o"},
            {"system": "s", "prompt": None, "completion": "c", "instruction": "i", "output": "o"},
        ],
        [("", "c"), ("s\n\ni", "o")],
    ),
    (
        "numbers in a history",
        ALL,
        [{"instruction": "3", "output": "4", "history": '[[1.50, "2"]]'}] * 2,
        [("User: 1.50\n\nAssistant: 2\n\nUser: 3", "4")] * 2,
    ),
    (
        "a question without an answer",
        ALL,
        [{"messages": [said("user", "u")]}, {"messages": [said("user", "u"), said("tool", "t")]}],
        [("u", ""), ("User: u\n\nTool: t", "")],
    ),
    (
        "two shapes in one file",
        ALL,
        [{"prompt": "p", "completion": "c"}, {"messages": [said("user", "u"), said("assistant", "a")]}],
        [("p", "c"), ("u", "a")],
    ),
    (
        "two shapes in one file, and rows with one text",
        JSON,
        [
            {"messages": [said("user", "u"), said("assistant", "a")], "prompt": "p"},
            {"prompt": "p"},
            {"completion": "c", "question": "q", "answer": "a"},
            {"completion": "c", "question": "q"},
        ],
        [("u", "a"), ("p", ""), ("q", "a"), ("", "c")],
    ),
    (
        "unused columns of any type",
        JSON,
        [  # type: ignore[var-annotated]
            {"prompt": "p", "completion": "c", "odd": odd}
            for odd in ([[0, "x"]], {"a": 1}, "text", 1.5, {"a": [None, {}]})
        ],
        [("p", "c")] * 5,
    ),
    (
        "times",
        PARQUET,
        [{"question": "q", "answer": datetime(2024, 5, 6, 12, 30, 0, n), "odd": timedelta(1)} for n in (0, 250_000)],
        [("q", "2024-05-06 12:30:00"), ("q", "2024-05-06 12:30:00.250")],
    ),
    (
        "unused nested columns",
        PARQUET,
        [{"prompt": "p", "completion": "c", "odd": [{"a": {"b": [1]}}], "raw": b"\xff"}],
        [("p", "c")],
    ),
]
TABLE = [
    pytest.param(writer, rows, expected, id=f"{case}-{name}")
    for case, writers, rows, expected in CASES
    for name, writer in writers.items()
]


@pytest.mark.parametrize(("write", "rows", "expected"), TABLE)
def test_every_shape_and_oddity_in_every_format(
    tmp_path: Path, write: Writer, rows: Rows, expected: list[tuple[str, str]]
) -> None:
    records = read_source("mine", write(tmp_path, rows)).collect()
    assert records.schema == RECORD_SCHEMA
    assert records.select("prompt", "completion").rows() == expected


any_text = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
any_label = st.none() | st.text("ab7", max_size=3)
any_row = st.fixed_dictionaries({"prompt": any_text, "completion": any_text, "task": any_label})


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("hub")])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(any_row, min_size=1, max_size=6))
def test_what_is_written_is_read_back(tmp_path: Path, name: str, rows: Rows) -> None:
    records = read_source("mine", ALL[name](tmp_path, rows)).collect()
    expected = [(row["prompt"] or "", row["completion"] or "", row["task"] or None) for row in rows]
    assert records.select("prompt", "completion", "task").rows() == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.lists(st.from_regex(r"\A-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?\Z"), min_size=1))
def test_numbers_keep_their_digits(tmp_path: Path, numbers: list[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"question": "q", "answer": {number}}}\n' for number in numbers))
    assert read_source("mine", FilesSource((str(path),))).collect()["completion"].to_list() == numbers
