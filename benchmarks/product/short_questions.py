"""How many training documents ask a short question of a test set, and are found by nothing else.

    python benchmarks/product/short_questions.py

Reads real corpora from `HYDRALORA_CORPORA` (default `../shared/corpora`), and writes results/short_questions.json. In
each, a tenth of the documents is held out by a hash. `by text` counts documents that share 13 words with a held-out
one, `more` those that are found only because the whole short prompt is the same, in `tasks` tasks.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from analysis.corpus.cleaning import CleanConfig, clean
from analysis.corpus.decontamination import contaminated
from analysis.corpus.deduplication import TEXT
from analysis.sources import FilesSource, read_source

REPOSITORY = Path(__file__).resolve().parents[2]
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", REPOSITORY.parent / "shared" / "corpora"))
NAMES = ("dolly15k", "flan10", "gsm8k", "legalbench", "mbxp", "medquad", "pubmedqa")
BATCH_ROWS = 8_192


def batches(documents: pl.DataFrame, prompts: bool) -> Callable[[], Iterator[pl.DataFrame]]:
    """The documents for `contaminated`; without prompts only whole texts are compared."""
    table = documents.select("row", TEXT, prompt=pl.col("prompt") if prompts else pl.lit(""))
    return lambda: table.iter_slices(BATCH_ROWS)


def measured(name: str) -> dict[str, Any]:
    """The counts of one corpus."""
    source = FilesSource((str(CORPORA / f"{name}_train.parquet"),))
    records = read_source(name, source).with_columns(split=pl.lit(None, pl.String))
    config = CleanConfig(decontaminate=False, detect_language=False)
    documents = clean(records, config).documents.collect().with_row_index("row")
    training, held_out = (documents.filter(pl.col("split") == split) for split in ("train", "test"))
    found = [
        set(contaminated(batches(training, prompts), {"held_out": batches(held_out, prompts)()})["row"])
        for prompts in (False, True)
    ]
    assert found[0] <= found[1]
    more = training.filter(pl.col("row").is_in(list(found[1] - found[0])))
    return {
        "corpus": name,
        "training documents": len(training),
        "by text": len(found[0]),
        "more": len(more),
        "tasks": more["task"].n_unique() if len(more) else 0,
        "share": round(len(more) / len(training), 4),
    }


def main() -> None:
    """Measure all corpora."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results" / "short_questions.json")
    options = parser.parse_args()
    rows = [measured(name) for name in NAMES]
    options.output.write_text(
        json.dumps({"command": "python benchmarks/product/short_questions.py", "rows": rows}, indent=2)
    )
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
