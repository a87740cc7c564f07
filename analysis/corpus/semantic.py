"""Documents that say the same in other words, by the cosine of embeddings.

Two documents are duplicates if their prompts are alike, their completions are alike, and both have the same numbers:
embeddings hardly see that "3 apples" has become "4 apples". All pairs are compared, block by block; at 384 dimensions
this takes less time than computing the embeddings up to about a million documents.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.corpus.deduplication import PAIR_SCHEMA

Embed = Callable[[pl.Series], NDArray[np.float32]]
"""Texts -> rows of L2 norm one, [n, d]."""

BLOCK = 512
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class SemanticSearch:
    """What is compared, and how alike two documents must be.

    Args:
        embed: the embeddings to compare.
        threshold: smallest cosine of the two prompts, and of the two completions, in (0, 1].
    """

    embed: Embed
    threshold: float

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"semantic_duplicate_threshold must be in (0, 1], got {self.threshold}")


def semantic_duplicates(
    batches: Iterable[pl.DataFrame], search: SemanticSearch, rank: NDArray[np.uint32]
) -> pl.DataFrame:
    """Find rows that say the same as a kept row of lower rank: columns `row` and `kept_row`.

    Args:
        batches: documents with the columns `row`, `prompt` and `completion`.
        rank: rank of every row number. Of two duplicates, the one with the lower rank is kept.
    """
    rows, prompts, completions, numbers = [], [], [], []
    for batch in batches:
        rows.append(batch["row"].to_numpy())
        prompts.append(search.embed(batch["prompt"]))
        completions.append(search.embed(batch["completion"]))
        numbers += [sorted(NUMBER.findall(f"{p} | {c}")) for p, c in batch.select("prompt", "completion").iter_rows()]
    if not rows:
        return pl.DataFrame(schema=PAIR_SCHEMA)
    row = np.concatenate(rows)
    order = np.argsort(rank[row])
    views = [np.concatenate(view)[order] for view in (prompts, completions)]
    duplicate_of = _duplicates(views, [numbers[i] for i in order], search.threshold)
    found = {"row": row[order[list(duplicate_of)]], "kept_row": row[order[list(duplicate_of.values())]]}
    return pl.DataFrame(found, schema_overrides=PAIR_SCHEMA)


def _duplicates(views: list[NDArray[np.float32]], numbers: list[list[str]], threshold: float) -> dict[int, int]:
    """Place -> the first kept place before it that is alike."""
    duplicate_of: dict[int, int] = {}
    for start in range(0, len(numbers), BLOCK):
        stop = min(start + BLOCK, len(numbers))
        alike = np.logical_and.reduce([view[start:stop] @ view[:stop].T >= threshold for view in views])
        for i, j in zip(*np.nonzero(np.tril(alike, start - 1)), strict=True):
            place, other = start + int(i), int(j)
            if place not in duplicate_of and other not in duplicate_of and numbers[place] == numbers[other]:
                duplicate_of[place] = other
    return duplicate_of
