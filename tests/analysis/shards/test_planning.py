"""Files are cut only where each piece can be read alone, and the pieces have the records of the file."""

import gzip
import json
from pathlib import Path

import pytest

from analysis.shards.planning import plan
from analysis.shards.reading import shard_records
from analysis.sources import FilesSource, read_source

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
