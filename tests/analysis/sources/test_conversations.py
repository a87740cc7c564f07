"""Conversations are read in every form that publishers write, in every format that can hold it."""

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.sources import read_source
from analysis.sources.records import RECORD_SCHEMA
from tests.analysis.sources.writers import ALL, JSON, PARQUET, TEXT, Case, Rows, Writer, in_every_format

pytestmark = pytest.mark.usefixtures("datasets_cache")


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def part(text: Any) -> dict[str, Any]:
    return {"type": "text", "text": text}


CALL = {"type": "function", "function": {"name": "sky", "arguments": '{"at": "Rome"}'}}
CALLED = '<tool_call>\n{"name": "sky", "arguments": {"at": "Rome"}}\n</tool_call>'

CASES: list[Case] = [
    (
        "texts of Assistants",
        ALL,
        [{"messages": [said(role, [part({"value": role})]) for role in ("user", "assistant")]}] * 2,
        [("user", "assistant")] * 2,
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
        "prompts and completions as JSON text of messages",
        TEXT | PARQUET,
        [
            {"prompt": json.dumps([said("user", one)]), "completion": json.dumps([said("assistant", "a")]), "input": x}
            for one, x in (("u", None), ("v", "x"))
        ],
        [("u", "a"), ("v\n\nx", "a")],
    ),
    (
        "JSON text that is no messages",
        ALL,
        [{"prompt": "[INST] p", "completion": json.dumps(value)} for value in ([said("user", "u")], [{"name": "x"}])],
        [("[INST] p", json.dumps(value)) for value in ([said("user", "u")], [{"name": "x"}])],
    ),
    (
        "completions as messages, and prompts as texts",
        JSON | PARQUET,
        [
            {"instruction": "u", "output": [said("assistant", "a")], "input": "x", "system": "s"},
            {"instruction": "u", "output": [said("user", "u"), said("assistant", "a")], "input": None, "system": "s"},
        ],
        [("s\n\nu\n\nx", "a"), ("s\n\nu", "a")],
    ),
    (
        "inputs beside prompts that are messages in some rows",
        JSON,
        [
            {"question": [said("user", "u")], "answer": "a", "context": "x"},
            {"question": "q", "answer": "a", "context": "y"},
            {"question": [said("user", "1"), said("assistant", "2"), said("user", "3")], "answer": "4", "context": "z"},
        ],
        [("u\n\nx", "a"), ("q\n\ny", "a"), ("User: 1\n\nAssistant: 2\n\nUser: 3\n\nz", "4")],
    ),
    (
        "a system text in a column and, with a line end less, in a message",
        ALL,
        [{"system": "s\n", "messages": [said("system", "s"), said("user", "u"), said("assistant", "a")]}] * 2,
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
]


@in_every_format(CASES)
def test_every_conversation_in_every_format(
    tmp_path: Path, write: Writer, rows: Rows, expected: list[tuple[str, str]]
) -> None:
    records = read_source("mine", write(tmp_path, rows)).collect()
    assert records.schema == RECORD_SCHEMA
    assert records.select("prompt", "completion").rows() == expected
