"""A small corpus in several files, with copies within and across files and texts of an evaluation set."""

import json
import random
from pathlib import Path

import polars as pl

from analysis.corpus.cleaning import CleanConfig
from analysis.shards.corpus import ShardedConfig
from analysis.sources import FilesSource

WORDS = {
    "kitchen": "simmer butter garlic onion pepper roast skillet oven flour sugar salt broth whisk knead",
    "harbour": "anchor mast sail tide keel rudder harbour crew galley compass deck cargo hull rope",
    "garden": "prune seed soil compost hedge tulip orchard rake mulch sprout trellis weed bloom vine",
}
SUBJECTS = {name: words.split() for name, words in WORDS.items()}
CONFIG = ShardedConfig(
    CleanConfig(detect_language=False), n_components=8, max_clusters=6, n_init=2, sample_size=400, shard_bytes=9_000
)


def write_corpus(folder: Path, files: int = 3, rows: int = 70) -> tuple[dict[str, FilesSource], dict[str, FilesSource]]:
    """Sources and evaluation sets; each source is a folder of JSON lines, Parquet and CSV in turn."""
    draw = random.Random(5)
    sources = {}
    for name, words in SUBJECTS.items():
        (folder / name).mkdir(parents=True)
        table = []
        for number in range(files * rows):
            prompt = " ".join(draw.choices(words, k=14)) + f" {number}"
            table.append({"prompt": prompt, "completion": " ".join(draw.choices(words, k=9)), "task": name})
        for copy in range(0, len(table), 11):  # exact, near, and empty ones
            table[copy] = dict(table[copy // 2])
            table[copy - 1] = {**table[copy // 3], "prompt": table[copy // 3]["prompt"] + " again"}
            table[copy - 3] = {**table[copy], "prompt": ""}
        for part in range(files):
            own = table[part * rows : (part + 1) * rows]
            path = folder / name / f"{part}"
            if part % 3 == 0:
                path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
            elif part % 3 == 1:
                pl.DataFrame(own).write_parquet(path.with_suffix(".parquet"), row_group_size=16)
            else:
                pl.DataFrame(own).write_csv(path.with_suffix(".csv"))
        sources[name] = FilesSource((str(folder / name / "*"),), splits={})
    leaked = [row["prompt"] for row in table[5:8]]
    (folder / "bench.jsonl").write_text("".join(json.dumps({"prompt": p, "completion": "x"}) + "\n" for p in leaked))
    return sources, {"bench": FilesSource((str(folder / "bench.jsonl"),))}


def content_of(out: Path) -> dict[str, bytes]:
    """Relative path -> bytes, of every file below a folder. The result lists places, which differ."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "corpus.json")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}
