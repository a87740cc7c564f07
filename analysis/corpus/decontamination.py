"""Training documents that share text with an evaluation set.

A document is contaminated if it shares a run of 13 words with an evaluation text, as in the GPT-3 paper (Brown et al.
2020, appendix C). Runs found in more than ten training documents do not count: they are templates or licences, not
answers. A text shorter than 13 words is compared as a whole, and so is a prompt: a repeated short question is a leak,
even if its answer differs. In scripts without spaces, 20 ideographs or 39 other characters count as 13 words, because a
run of 13 characters is often a common phrase (docs/results/scripts.md).
"""

from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.corpus.deduplication import Batches
from analysis.text.shingles import shingles

NGRAM_WORDS = 13
MAX_DOCUMENTS = 10
"""An n-gram found in more training documents than this does not count."""
SHORT_BYTES = 200
"""Prompts up to this length in bytes are also compared as a whole. Almost all prompts of fewer than 13 words are this
short."""
FILTER_SLOTS = 1 << 24
"""Size of a bitmap that is checked before the sorted n-grams: most n-grams of a corpus are in no evaluation text."""


def contaminated(batches: Batches, evaluation: Mapping[str, Iterable[pl.DataFrame]]) -> pl.DataFrame:
    """Find rows that share an n-gram with an evaluation set: columns `row` and `evaluation_set` (the first match).

    Args:
        batches: training documents with the columns `row`, `prompt` and `text`; one pass is made over them.
        evaluation: name of an evaluation set -> its documents in blocks, with the columns `prompt` and `text`.
    """
    ngrams, owners = ngrams_of(evaluation)
    filled = slots_of(ngrams)
    documents_with = np.zeros(len(ngrams), dtype=np.int64)
    rows, places = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]
    for batch in batches():
        row, place = known_ngrams(batch, ngrams, filled)
        hit = documents_with[place] <= MAX_DOCUMENTS  # a known template needs no further counting
        np.add.at(documents_with, place[hit], 1)
        rows.append(row[hit])
        places.append(place[hit])
    row, place = np.concatenate(rows), np.concatenate(places)
    counts = documents_with[place] <= MAX_DOCUMENTS
    matches = pl.DataFrame({"row": row[counts], "owner": owners[place[counts]]})
    first = matches.group_by("row").agg(pl.col("owner").min()).sort("row")
    names = pl.Series(list(evaluation), dtype=pl.String)
    return first.select("row", evaluation_set=names.gather(first["owner"]))


def slots_of(ngrams: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """The bitmap of at least `FILTER_SLOTS`, a power of two, in which each n-gram has a slot; most slots stay free."""
    filled = np.zeros(max(FILTER_SLOTS, 1 << (8 * len(ngrams)).bit_length()), dtype=bool)
    filled[ngrams & np.uint64(len(filled) - 1)] = True
    return filled


def known_ngrams(
    batch: pl.DataFrame, ngrams: NDArray[np.uint64], filled: NDArray[np.bool_]
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The known n-grams of each document: pairs of its `row` and the n-gram's place in `ngrams`, each pair once.

    Args:
        batch: documents with the columns `row`, `prompt` and `text`.
        ngrams: known n-grams, sorted.
        filled: their `slots_of`.
    """
    values, owner = _ngrams_in(batch)
    likely = np.flatnonzero(filled[values & np.uint64(len(filled) - 1)])
    likely = likely[np.argsort(values[likely])]  # sorted, because neighbouring searches then hit the cache
    place = np.searchsorted(ngrams, values[likely]).clip(max=len(ngrams) - 1)
    hit = ngrams[place] == values[likely]
    pairs = np.unique(np.column_stack([owner[likely[hit]], place[hit]]), axis=0)
    return batch["row"].to_numpy()[pairs[:, 0]], pairs[:, 1]


def _ngrams_in(batch: pl.DataFrame) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The n-grams of texts and of short prompts, some of them repeated; and the position of the document of each."""
    texts = shingles(batch["text"], NGRAM_WORDS, punctuation=False, by_length=True, distinct=False)
    is_short = batch["prompt"].str.len_bytes() <= SHORT_BYTES
    short = batch["prompt"].filter(is_short)
    prompts = shingles(short, NGRAM_WORDS, punctuation=False, by_length=True, distinct=False)
    owners = texts.row_of_value(), is_short.arg_true().to_numpy().astype(np.int64)[prompts.row_of_value()]
    return np.concatenate([texts.values, prompts.values]), np.concatenate(owners)


def ngrams_of(evaluation: Mapping[str, Iterable[pl.DataFrame]]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """The sorted distinct n-grams, and for each the index of the first set that contains it."""
    ngrams, owners = [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
    for owner, blocks in enumerate(evaluation.values()):
        for block in blocks:
            found = np.unique(_ngrams_in(block)[0])
            ngrams.append(found)
            owners.append(np.full(len(found), owner, dtype=np.uint32))
    values, first = np.unique(np.concatenate(ngrams), return_index=True)
    return values, np.concatenate(owners)[first]
