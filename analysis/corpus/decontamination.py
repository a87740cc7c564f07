"""Training documents that share text with an evaluation set.

A document is contaminated if a run of 13 words of it stands in an evaluation text, as in GPT-3's report (Brown et
al. 2020, appendix C). Runs in more than ten training documents are templates and licences rather than answers, and do
not count. A text shorter than 13 words is compared as a whole. In scripts without blanks 20 ideographs or 39 other
characters stand for 13 words: a run of 13 characters is a common phrase (docs/results/scripts.md).
"""

from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.corpus.deduplication import Batches
from analysis.text.shingles import shingles

NGRAM_WORDS = 13
MAX_DOCUMENTS = 10
"""An n-gram in more training documents than this does not count."""
FILTER_SLOTS = 1 << 24
"""A bitmap in front of the sorted n-grams: most n-grams of a corpus stand in no evaluation text."""


def contaminated(batches: Batches, evaluation: Mapping[str, Iterable[pl.Series]]) -> pl.DataFrame:
    """Rows that share an n-gram with an evaluation set: columns `row` and `evaluation_set` (the first that matches).

    Args:
        batches: the training documents; passed over once.
        evaluation: texts of each set, in blocks.
    """
    ngrams, owners = _ngrams_of(evaluation)
    is_slot_used = np.zeros(FILTER_SLOTS, dtype=bool)
    is_slot_used[ngrams % FILTER_SLOTS] = True
    documents_with = np.zeros(len(ngrams), dtype=np.int64)
    rows, places = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]
    for batch in batches():
        found = shingles(batch["text"], NGRAM_WORDS, punctuation=False, by_length=True)
        likely = np.flatnonzero(is_slot_used[found.values % FILTER_SLOTS])
        place = np.searchsorted(ngrams, found.values[likely]).clip(max=len(ngrams) - 1)
        # a template, once known as one, need not be remembered
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


def _ngrams_of(evaluation: Mapping[str, Iterable[pl.Series]]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """(sorted different n-grams, for each the position of the first set that has it)."""
    ngrams, owners = [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
    for owner, blocks in enumerate(evaluation.values()):
        for texts in blocks:
            found = np.unique(shingles(texts, NGRAM_WORDS, punctuation=False, by_length=True).values)
            ngrams.append(found)
            owners.append(np.full(len(found), owner, dtype=np.uint32))
    values, first = np.unique(np.concatenate(ngrams), return_index=True)
    return values, np.concatenate(owners)[first]
