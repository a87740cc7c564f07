"""Training documents that share text with an evaluation set.

A document is contaminated if it shares a run of 13 words with an evaluation text, as in the GPT-3 paper (Brown et al.
2020, appendix C). Runs found in more than ten training documents do not count: they are templates or licences, not
answers. A text shorter than 13 words is compared as a whole. In scripts without spaces, 20 ideographs or 39 other
characters count as 13 words, because a run of 13 characters is often a common phrase (docs/results/scripts.md).
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
FILTER_SLOTS = 1 << 24
"""Size of a bitmap that is checked before the sorted n-grams: most n-grams of a corpus are in no evaluation text."""


def contaminated(batches: Batches, evaluation: Mapping[str, Iterable[pl.Series]]) -> pl.DataFrame:
    """Find rows that share an n-gram with an evaluation set: columns `row` and `evaluation_set` (the first match).

    Args:
        batches: training documents; one pass is made over them.
        evaluation: name of an evaluation set -> its texts, in blocks.
    """
    ngrams, owners = ngrams_of(evaluation)
    is_slot_used = np.zeros(FILTER_SLOTS, dtype=bool)
    is_slot_used[ngrams % FILTER_SLOTS] = True
    documents_with = np.zeros(len(ngrams), dtype=np.int64)
    rows, places = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]
    for batch in batches():
        found = shingles(batch["text"], NGRAM_WORDS, punctuation=False, by_length=True)
        likely = np.flatnonzero(is_slot_used[found.values % FILTER_SLOTS])
        place = np.searchsorted(ngrams, found.values[likely]).clip(max=len(ngrams) - 1)
        # an n-gram that is known to be a template needs no further counting
        hit = (ngrams[place] == found.values[likely]) & (documents_with[place] <= MAX_DOCUMENTS)
        np.add.at(documents_with, place[hit], 1)
        rows.append(batch["row"].to_numpy()[found.row_of_value()[likely[hit]]])
        places.append(place[hit])
    row, place = np.concatenate(rows), np.concatenate(places)
    counts = documents_with[place] <= MAX_DOCUMENTS
    matches = pl.DataFrame({"row": row[counts], "owner": owners[place[counts]]})
    first = matches.group_by("row").agg(pl.col("owner").min()).sort("row")
    names = pl.Series(list(evaluation), dtype=pl.String)
    return first.select("row", evaluation_set=names.gather(first["owner"]))


def ngrams_of(evaluation: Mapping[str, Iterable[pl.Series]]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """The sorted distinct n-grams, and for each the index of the first set that contains it."""
    ngrams, owners = [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
    for owner, blocks in enumerate(evaluation.values()):
        for texts in blocks:
            found = np.unique(shingles(texts, NGRAM_WORDS, punctuation=False, by_length=True).values)
            ngrams.append(found)
            owners.append(np.full(len(found), owner, dtype=np.uint32))
    values, first = np.unique(np.concatenate(ngrams), return_index=True)
    return values, np.concatenate(owners)[first]
