"""A corpus of any size: real documents resampled and perturbed, with a fixed share of exact and near duplicates.

Half of the words of a document are replaced by words of its task, because at ten million documents each real one is
drawn 155 times, and its copies would be near duplicates of each other: the share of duplicates would grow with the
corpus. Instead, 2% of the documents are copies of any earlier one, and 3% are such copies with one word in fifty
replaced. Each document follows from its number and the seed alone, so files can be written in parallel.
"""

import multiprocessing
import os
import random
from functools import cache
from pathlib import Path

from perturbed_text import MAX_LENGTH, perturbed

CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", Path(__file__).resolve().parents[3] / "shared" / "corpora"))
NAMES = ("dolly15k", "flan10", "gsm8k", "legalbench", "mbxp", "medquad")
ROWS_OF_FILE = 50_000
EXACT, NEAR = 0.02, 0.03
SEED = 0

Document = tuple[str, str, str]


def build(folder: Path, n_documents: int, processes: int) -> None:
    """Write `folder` with Parquet files of `ROWS_OF_FILE` documents, unless it exists."""
    if folder.exists():
        return
    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    files = [
        (partial / f"{first // ROWS_OF_FILE:05}.parquet", first, min(first + ROWS_OF_FILE, n_documents))
        for first in range(0, n_documents, ROWS_OF_FILE)
    ]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.starmap(_write, files, chunksize=1)
    partial.rename(folder)


def _write(path: Path, first: int, stop: int) -> None:
    import polars as pl

    rows = [_document(number) for number in range(first, stop)]
    table = pl.DataFrame(rows, ["task", "prompt", "completion"], orient="row")
    table.write_parquet(path, row_group_size=10_000)


def _document(number: int) -> Document:
    rng = random.Random(SEED << 40 | number)
    chance = rng.random()
    if not number or chance >= EXACT + NEAR:
        return _fresh(number)
    task, prompt, completion = _fresh(rng.randrange(number))
    if chance < EXACT:
        return task, prompt, completion
    return task, prompt, perturbed(completion, _real()[1][task], rng, one_in=50)


def _fresh(number: int) -> Document:
    real, words = _real()
    rng = random.Random((SEED << 40 | number) ^ 1 << 60)
    task, *texts = real[int(rng.random() * len(real))]
    prompt, completion = (perturbed(text[:MAX_LENGTH], words[task], rng, one_in=2) for text in texts)
    return task, prompt, completion


@cache
def _real() -> tuple[list[Document], dict[str, list[str]]]:
    """All real documents, and words of each task."""
    import polars as pl

    prompt = pl.concat_str("instruction", "input", separator="\n", ignore_nulls=True)
    real: list[Document] = []
    words = {}
    for name in NAMES:
        table = pl.read_parquet(CORPORA / f"{name}_train.parquet").select(prompt, "output")
        words[name] = [word for row in table.gather_every(10).iter_rows() for text in row for word in text.split()]
        real += [(name, *row) for row in table.iter_rows()]
    return real, words
