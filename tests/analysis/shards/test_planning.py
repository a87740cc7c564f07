"""Files are cut only where each piece can be read alone, and the pieces have the records of the file."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analysis.corpus.cleaning import CleanConfig
from analysis.engine.stages import Stages
from analysis.engine.tasks import SerialEngine, ShardError
from analysis.shards.cleaning import ShardedCleaning
from analysis.shards.planning import plan
from analysis.shards.reading import check_pieces, shard_records
from analysis.sources import FilesSource, SourceError, read_source

ROWS = [{"prompt": f"caf\u00e9 {i}", "completion": "a\nb"} for i in range(60)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    ("content", "is_cut"),
    [
        (LINES.encode(), True),
        (LINES.encode("utf-8-sig"), True),
        (LINES.replace("\n", "\r\n\n").encode(), True),
        (LINES.encode("utf-16"), False),
        (LINES.encode("utf-32"), False),
        (json.dumps(ROWS, indent=1).encode(), False),
        ("\n".join(json.dumps(row, indent=1) for row in ROWS).encode(), False),
        (json.dumps(ROWS).replace("}, ", "},\n").encode(), False),
        (gzip.compress(LINES.encode()), False),
    ],
)
def test_json_lines_are_cut_and_nothing_else(tmp_path: Path, content: bytes, is_cut: bool) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    source = FilesSource((str(path),))
    shards = plan({"mine": source}, 200)
    assert (len(shards) > 1) == is_cut
    rows = [row for shard in shards for row in shard_records(shard, {})[0].select("prompt", "completion").rows()]
    assert rows == read_source("mine", source).collect().select("prompt", "completion").rows()
    assert len(rows) == 60


CHAT = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
UNEVEN: list[tuple[list[dict[str, Any]], dict[str, str]]] = [
    ([{"prompt": "p", "completion": "c"}, *[{"id": i, "note": "nothing to read"} for i in range(40)]], {}),
    ([*[{"split": "train", "notes": [{"a": i}]} for i in range(40)], {"messages": CHAT}], {}),
    ([{"question": "q"}, *[{"x": "y" * 90}] * 9, {"answer": "a"}], {}),
    ([{"ask": "q", "reply": "a"}, {"about": {"kind": "t"}}, *[{"x": "y"}] * 9], {"task": "about.kind"}),
]


@pytest.mark.parametrize("shard_bytes", [40, 300, 3_000])
@pytest.mark.parametrize(("rows", "more"), UNEVEN)
def test_a_piece_may_lack_columns_that_the_file_has(
    tmp_path: Path, rows: list[dict[str, Any]], more: dict[str, str], shard_bytes: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "ask", "completion": "reply", **more} if more else {}
    source = FilesSource((str(path),), columns)
    shards = plan({"mine": source}, shard_bytes)
    read = [shard_records(shard, {"columns": columns}) for shard in shards]
    check_pieces(shards, [piece for _, _, lacking in read for piece in lacking], {"mine": source})
    assert pl.concat([records for records, *_ in read]).equals(read_source("mine", source).collect())
    assert len(shards) > 1 or shard_bytes > path.stat().st_size


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({}, r"a\.jsonl: no known shape in the columns \['ask', 'about'\]"),
        ({"prompt": "ask", "completion": "reply"}, r"no column 'reply'; found \['ask', 'about'\]"),
        ({"prompt": "ask", "completion": "about.kind"}, "column 'about.kind': no such field in 'about'"),
    ],
)
def test_a_file_without_the_needed_columns_is_refused(tmp_path: Path, columns: dict[str, str], error: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"ask": "q"}\n' * 9 + "\n" * 99 + '{"about": {"x": 1}}\n' * 9)
    sources = {"mine": FilesSource((str(path),), columns)}
    for shard_bytes in (1_024, 40):
        with pytest.raises((SourceError, ShardError), match=f"source 'mine': .*{error}"):
            ShardedCleaning(
                Stages(SerialEngine(), str(tmp_path / "out"), ""), plan(sources, shard_bytes), sources, CleanConfig()
            )


@pytest.mark.parametrize(
    "start", ['{"prompt": "p",\n"completion": "c"}', '{"data": [{"prompt": "p", "completion": "c"}]}']
)
def test_objects_over_lines_and_objects_around_lists_are_not_cut(tmp_path: Path, start: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(start)
    rows = [shard_records(shard, {})[0] for shard in plan({"mine": FilesSource((str(path),))}, 10)]
    assert pl.concat(rows).select("prompt", "completion").rows() == [("p", "c")]
