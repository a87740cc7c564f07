"""What of a source was not read, or may be read otherwise, is said in a note."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.analysis.sources.writers import PAIR, notes


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
        ({"prompt": "p", "completion": "c", "Split": "test"}, "column 'Split' is not read"),
        ({"prompt": "p", "completion": "c", "System prompt": "s"}, "column 'System prompt' is not read"),
        ({"prompt": "p", "completion": "c", "is_correct": False}, "column 'is_correct' is not read"),
        ({"prompt": "p", "completion": "c", "split": "test", "task": "t", "license": "MIT", "URL_": "x"}, ""),
        ({"prompt": "p", "completion": "c", "weight": 0}, "column 'weight' is not read"),
        ({"question": "q", "answer": "a", "rationale": "r"}, "column 'rationale' is not read"),
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
