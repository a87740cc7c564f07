"""What is read is what was written: every oddity of texts, numbers and columns in every format that can hold it."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.sources import FilesSource, read_source
from analysis.sources.records import RECORD_SCHEMA
from tests.analysis.sources.writers import ALL, JSON, PARQUET, TEXT, Case, Rows, Writer, in_every_format

pytestmark = pytest.mark.usefixtures("datasets_cache")

HARD = 'a "quoted" word; a\ttab, a | bar, C:\\new\n\n  a line\u2028end, \u00e9\U0001f600'

CASES: list[Case] = [
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


@in_every_format(CASES)
def test_every_text_and_column_in_every_format(
    tmp_path: Path, write: Writer, rows: Rows, expected: list[tuple[str, str]]
) -> None:
    records = read_source("mine", write(tmp_path, rows)).collect()
    assert records.schema == RECORD_SCHEMA
    assert records.select("prompt", "completion").rows() == expected


any_text = (
    st.none()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.text("ab ,;\t\"'\\\n|é本", max_size=12)
)
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
