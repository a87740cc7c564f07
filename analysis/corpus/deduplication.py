"""Exact and near duplicates, within and across sources.

Near duplicates: MinHash over word trigrams (character trigrams in scripts without spaces). Equal bands of hashes give
candidate pairs, and the exact Jaccard similarity of a pair decides. Two documents are duplicates only if they are
similar both as a whole and in their content, that is, without the shingles of templates. Two questions under one long
instruction are similar as a whole but differ in content. Two tasks on one passage have similar content but differ as a
whole. Neither pair is a duplicate. If two texts differ in one letter only, character trigrams decide whether they are
similar as a whole, because this letter changes three of a short text's few word trigrams (see
`analysis.corpus.one_letter`).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.corpus.one_letter import one_letter_similarity
from analysis.text.minhash import band_hashes
from analysis.text.shingles import Rows, count_slots, jaccard, rare, shingles

Batches = Callable[[], Iterator[pl.DataFrame]]
"""Each call starts a new pass over the documents, in batches with the columns `row`, `prompt` and `text` (`TEXT`)."""

TEXT = pl.concat_str("prompt", "completion", separator="\n").alias("text")
ANSWER_AT = (pl.col("prompt").str.len_chars() + 1).alias("answer_at")
"""Where the answer begins in a text."""

SHINGLE_SIZE = 3
NUM_PERMUTATIONS = 128
SEED = 42
TEMPLATE_DOCUMENTS = 20
"""A shingle found in more documents than this belongs to a template."""
CONTENT_SHARE = 0.5
"""Required similarity of the content, as a share of the threshold for whole documents.

It is lower because the content has fewer trigrams, so one edit changes a larger share of them.
"""
COUNTER_SLOTS = 1 << 24
COUNTED_RECORDS = 1_000_000
"""In a larger corpus, templates are searched in about this many records, evenly spaced.

With more records, collisions would fill the counters, and every shingle would look like part of a template.
"""
KEPT_SHINGLES = 4_000_000
"""Number of shingles (8 bytes each) that may stay in memory between passes."""
NEIGHBOURS = 8
"""Within a band, a document is compared with the first document and with this many preceding ones."""

Row = TypeVar("Row", bound=np.unsignedinteger)
PAIR_SCHEMA = pl.Schema({"row": pl.UInt32(), "kept_row": pl.UInt32()})


class Compared(NamedTuple):
    """The compared parts of a document: all shingles, those of its content, its text, and where its answer begins."""

    whole: NDArray[np.uint64]
    content: NDArray[np.uint64]
    text: str
    answer_at: int

    def is_like(self, other: "Compared", threshold: float) -> bool:
        """Whether the documents are near duplicates at this similarity of whole documents."""
        if jaccard(self.content, other.content) < CONTENT_SHARE * threshold:
            return False
        alike = jaccard(self.whole, other.whole) >= threshold
        answer_at = min(self.answer_at, other.answer_at)
        return alike or one_letter_similarity(self.text, other.text, answer_at) >= threshold


def exact_duplicates(index: pl.DataFrame) -> pl.DataFrame:
    """Find rows whose `content` occurs earlier in `index`: columns `row` and `kept_row`."""
    first = pl.col("row").first().over("content")
    return index.select("row", kept_row=first).filter(pl.col("row") != pl.col("kept_row")).cast(PAIR_SCHEMA)


def near_duplicates(batches: Batches, rank: NDArray[np.uint32], threshold: float) -> pl.DataFrame:
    """Find rows with a similarity of at least `threshold` to a kept row of lower rank: columns `row` and `kept_row`.

    Args:
        batches: documents, see `Batches`; two or three passes are made over them.
        rank: rank of every row number. Of two duplicates, the one with the lower rank is kept.
        threshold: Jaccard similarity of whole documents, in (0, 1].
    """
    shingled = _Shingled(batches)
    counts = _shingle_counts(shingled, step_between_counted(len(rank)))
    pairs = candidate_pairs(*band_keys(shingled, counts, threshold), rank)
    compared = _compared(batches, counts, np.unique(pairs))
    duplicate_of: dict[int, int] = {}
    for kept, row in pairs.tolist():
        if kept in duplicate_of or row in duplicate_of:
            continue
        if compared[kept].is_like(compared[row], threshold):
            duplicate_of[row] = kept
    return pl.DataFrame({"row": list(duplicate_of), "kept_row": list(duplicate_of.values())}, schema=PAIR_SCHEMA)


class _Shingled:
    """Row numbers and shingles of each batch; for a small corpus they stay in memory for the next pass."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._kept: list[tuple[NDArray[np.uint32], Rows]] | None = None

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint32], Rows]]:
        if self._kept is not None:
            yield from self._kept
            return
        kept, n_shingles = [], 0
        for batch in self._batches():
            item = batch["row"].to_numpy(), shingles(batch["text"], SHINGLE_SIZE, punctuation=True)
            n_shingles += len(item[1].values)
            if n_shingles <= KEPT_SHINGLES:
                kept.append(item)
            yield item
        self._kept = kept if n_shingles <= KEPT_SHINGLES else None


def step_between_counted(n_records: int) -> int:
    """A record is counted if its number in the order read is a multiple of this; see `COUNTED_RECORDS`."""
    return max(1, -(-n_records // COUNTED_RECORDS))


def count_shingles(
    numbers: NDArray[np.int64] | NDArray[np.uint32], every: Rows, step: int, counts: NDArray[np.uint8]
) -> None:
    """Add the shingles of counted records to document frequencies.

    Args:
        numbers: number of each record in the order read, [n].
        step: see `step_between_counted`.
    """
    counted = every if step == 1 else every.where((numbers % step == 0)[every.row_of_value()])
    count_slots(counted.values, counts)


def _shingle_counts(shingled: _Shingled, step: int) -> NDArray[np.uint8]:
    """Document frequencies up to 255, by hash modulo the number of slots. Collisions can only raise a count."""
    counts = np.zeros(COUNTER_SLOTS, dtype=np.uint8)
    for rows, every in shingled:
        count_shingles(rows, every, step, counts)
    return counts


def content_of(every: Rows, counts: NDArray[np.uint8]) -> Rows:
    """Shingles without those of templates. A document with only template shingles keeps them all."""
    return rare(every, counts, TEMPLATE_DOCUMENTS)


def _rows_per_band(threshold: float) -> int:
    """The most rows per band that still find a pair well below the threshold with probability 1/2.

    Two contents of similarity s share at least one of b bands of r hashes with probability 1 - (1 - s^r)^b, which is
    about 1/2 near s = (1 / b)^(1 / r). At a threshold of 0.8: r = 4, b = 32, and the probability is .56 at s = .4, .87
    at .5 and .99 at .6.
    """
    for length in (16, 8, 4):
        if (length / NUM_PERMUTATIONS) ** (1 / length) <= (1 + CONTENT_SHARE) / 2 * threshold:
            return length
    return 2


def band_keys(
    shingled: Iterable[tuple[NDArray[np.uint32], Rows]], counts: NDArray[np.uint8], threshold: float
) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """Row numbers [n] and keys [n, n_bands]. Two documents with an equal key in a column are a candidate pair."""
    length = _rows_per_band(threshold)
    rows: list[NDArray[np.uint32]] = [np.empty(0, np.uint32)]
    keys: list[NDArray[np.uint64]] = [np.empty((0, NUM_PERMUTATIONS // length), np.uint64)]
    for batch_rows, every in shingled:
        content = content_of(every, counts)
        has_content = np.diff(content.offsets) > 0
        rows.append(batch_rows[has_content])
        keys.append(band_hashes(content, NUM_PERMUTATIONS, length, SEED)[has_content])
    return np.concatenate(rows), np.concatenate(keys)


def candidate_pairs(rows: NDArray[np.uint32], keys: NDArray[np.uint64], rank: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Distinct pairs [n, 2] of (lower rank, higher rank), ordered by the rank of the second, then of the first."""
    found = [np.empty((0, 2), np.uint32)]
    by_rank = np.argsort(rank[rows])
    rows, keys = rows[by_rank], keys[by_rank]
    for band in keys.T:
        order = np.argsort(band, kind="stable")
        key, row = band[order], rows[order]
        for step in range(1, NEIGHBOURS + 1):
            same = key[step:] == key[:-step]
            found.append(np.column_stack([row[:-step][same], row[step:][same]]))
        first = firsts_of_runs(key, row)
        found.append(np.column_stack([first, row])[first != row])
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[np.lexsort((rank[pairs[:, 0]], rank[pairs[:, 1]]))]


def firsts_of_runs(keys: NDArray[np.uint64], rows: NDArray[Row]) -> NDArray[Row]:
    """For each of some sorted keys [n], the first row with an equal key, [n]."""
    is_start = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    return rows[np.flatnonzero(is_start)[np.cumsum(is_start) - 1]]


def _compared(batches: Batches, counts: NDArray[np.uint8], wanted: NDArray[np.uint32]) -> dict[int, Compared]:
    found: dict[int, Compared] = {}
    is_wanted = pl.Series(wanted)
    for batch in batches():
        chosen = batch.filter(pl.col("row").is_in(is_wanted.implode()))
        if chosen.is_empty():
            continue
        every = shingles(chosen["text"], SHINGLE_SIZE, punctuation=True)
        content = content_of(every, counts)
        for i, (row, text, answer_at) in enumerate(chosen.select("row", "text", ANSWER_AT).iter_rows()):
            found[row] = Compared(every[i].copy(), content[i].copy(), text, answer_at)
    return found
