"""A sample of documents that depends on their texts and the seed, not on their order."""

from collections.abc import Iterable

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from analysis.text.blocks import TextBlock, Texts, map_threads, text_blocks

BATCH_ROWS = 1 << 17


def sample_texts(batches: Iterable[Texts], size: int, random_state: int = 0) -> pa.Array:
    """Draw `size` distinct texts in one pass over `batches`: those with the smallest seeded hashes.

    Equal texts count once. The order of the documents and the batch boundaries have no effect, not even on the order of
    the sample.

    Returns:
        At most `size` texts as a large_string array, in the order of their hashes.

    Raises:
        ValueError: if `size` is not positive.
        TypeError: if a batch does not hold text.
    """
    if size < 1:
        raise ValueError(f"sample size: expected at least 1, got {size}")

    def hashed(block: TextBlock) -> tuple[TextBlock, NDArray[np.uint64]]:
        from analysis.text._tokens import hash_documents

        return block, hash_documents(block.data, block.offsets, np.uint64(random_state))

    sample = TextSample(size)
    blocks = (block for batch in batches for block in text_blocks(batch))
    for block, hashes in map_threads(hashed, blocks):
        sample.offer(block, hashes)
    return sample.texts()


def sample_documents(documents: pl.LazyFrame, size: int, random_state: int = 0) -> pl.DataFrame:
    """Draw `size` rows of a documents table by `document_id`, which is already a hash of the text.

    It reads the ids first and then only the drawn rows. On a large file, this is half the work of `sample_texts`. The
    sample is equally independent of the order.

    Args:
        documents: table with `document_id` as in docs/architecture.md (16 hex digits, unique) and the columns to
            sample.

    Raises:
        ValueError: if `size` is not positive.
    """
    if size < 1:
        raise ValueError(f"sample size: expected at least 1, got {size}")
    number = pl.col("document_id").str.to_integer(base=16, dtype=pl.UInt64)
    start = int(np.random.default_rng(random_state).integers(2**63))
    rank = number - pl.lit(start, pl.UInt64)  # wraps around
    ranks = (batch.to_series().to_numpy() for batch in documents.select(rank).collect_batches(chunk_size=BATCH_ROWS))
    largest = _largest_of_smallest(ranks, size)
    return documents.filter(rank <= pl.lit(largest, pl.UInt64)).collect(engine="streaming")


def _largest_of_smallest(blocks: Iterable[NDArray[np.uint64]], size: int) -> int:
    """The `size`-th smallest number, or the largest uint64 if there are fewer. Few numbers are kept at a time."""
    smallest, largest = np.empty(0, np.uint64), 2**64 - 1
    for block in blocks:
        smallest = np.concatenate([smallest, block[block <= largest]])
        if len(smallest) >= size:
            smallest = np.partition(smallest, size - 1)[:size]
            largest = int(smallest[-1])
    return largest


class TextSample:
    """The texts with the `size` smallest distinct hashes among those offered: an incremental `sample_texts`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._texts: list[pa.Array] = [pa.array([], pa.large_string())]
        self._hashes: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        self._largest = np.uint64(2**64 - 1)

    def add(self, texts: Texts) -> None:
        """Offer texts, with hashes of seed 0."""
        from analysis.text._tokens import hash_documents

        for block in text_blocks(texts):
            self.offer(block, hash_documents(block.data, block.offsets, np.uint64(0)))

    def offer(self, block: TextBlock, hashes: NDArray[np.uint64]) -> None:
        """Offer the documents of a block by their hashes."""
        rows = np.flatnonzero(hashes <= self._largest)
        if rows.size:
            self._texts.append(block.take(rows))
            self._hashes.append(hashes[rows])
        if sum(map(len, self._hashes)) > 2 * self.size:
            self._drop_larger()

    def texts(self) -> pa.Array:
        """The current sample, as a large_string array in the order of the hashes."""
        self._drop_larger()
        return self._texts[0]

    def _drop_larger(self) -> None:
        hashes, first = np.unique(np.concatenate(self._hashes), return_index=True)
        self._hashes = [hashes[: self.size]]
        self._texts = [pa.concat_arrays(self._texts).take(pa.array(first[: self.size]))]
        if len(hashes) >= self.size:
            self._largest = hashes[self.size - 1]
