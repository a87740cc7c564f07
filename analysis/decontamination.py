"""Training documents that share text with an evaluation set.

A document is contaminated if a run of 13 words of it stands in an evaluation text, as in GPT-3's report (Brown et
al. 2020, appendix C). Runs in more than ten training documents are templates and licences rather than answers, and do
not count. A text shorter than 13 words is compared as a whole.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.deduplication import Batches
from analysis.shingles import shingles

NGRAM_WORDS = 13
MAX_DOCUMENTS = 10
"""An n-gram in more training documents than this does not count."""


def contaminated(batches: Batches, evaluation: Mapping[str, Iterable[pl.Series]]) -> pl.DataFrame:
    """Rows that share an n-gram with an evaluation set: columns `row` and `evaluation_set` (the first that matches).

    Args:
        batches: the training documents; passed over once.
        evaluation: texts of each set, in blocks.
    """
    names = list(evaluation)
    ngrams, owners = _ngrams_of(evaluation)
    seen = np.zeros(len(ngrams), dtype=np.int64)  # training documents in which an n-gram was found
    rows, hits = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]
    for batch in batches():
        found = shingles(batch["text"], NGRAM_WORDS, punctuation=False)
        places = np.searchsorted(ngrams, found.values)
        match = np.zeros(len(places), dtype=bool)
        inside = places < len(ngrams)
        match[inside] = ngrams[places[inside]] == found.values[inside]
        match[match] = seen[places[match]] <= MAX_DOCUMENTS  # a known template need not be remembered
        np.add.at(seen, places[match], 1)
        rows.append(batch["row"].to_numpy()[found.row_of_value()[match]])
        hits.append(places[match])
    row, hit = np.concatenate(rows), np.concatenate(hits)
    counts = seen[hit] <= MAX_DOCUMENTS
    table = pl.DataFrame(
        {"row": row[counts], "owner": owners[hit[counts]]}, schema={"row": pl.UInt32, "owner": pl.Int64}
    )
    first = table.group_by("row").agg(pl.col("owner").min()).sort("row")
    return first.select("row", evaluation_set=pl.Series(names, dtype=pl.String).gather(first["owner"]))


def _ngrams_of(evaluation: Mapping[str, Iterable[pl.Series]]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """(sorted different n-grams, for each the position of the first set that has it)."""
    ngrams, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for owner, blocks in enumerate(evaluation.values()):
        for texts in blocks:
            found = np.unique(shingles(texts, NGRAM_WORDS, punctuation=False).values)
            ngrams.append(found)
            owners.append(np.full(len(found), owner))
    values, first = np.unique(np.concatenate(ngrams), return_index=True)
    return values, np.concatenate(owners)[first]
