"""Heterogeneity of a corpus."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.clusters.heterogeneity import measure_heterogeneity
from analysis.features.lsa import TfidfLsa


def test_heterogeneity_of_parts_that_share_nothing():
    for n_parts in (1, 2, 5):
        rows = np.repeat(np.eye(8)[:n_parts], 40, axis=0)
        measured = measure_heterogeneity(rows)
        assert measured.index == pytest.approx(1 - 1 / n_parts, abs=1e-6)
        assert measured.effective_parts == pytest.approx(n_parts, rel=1e-4)
        assert measured.within == pytest.approx(0, abs=1e-6)


def test_more_domains_raise_heterogeneity_and_shuffled_words_do_not(shared_corpora: Path):
    random = np.random.default_rng(0)
    prompts = {
        stem: pl.read_parquet(shared_corpora / f"{stem}_train.parquet").sample(600, seed=0)["instruction"].to_list()
        for stem in ("gsm8k", "medquad", "mbxp", "legalbench")
    }

    def index(texts: list[str]) -> float:
        return measure_heterogeneity(TfidfLsa().fit(texts).transform(texts)).index

    one, *more = [index([text for stem in list(prompts)[:n] for text in prompts[stem][: 600 // n]]) for n in (1, 2, 4)]
    assert one < more[0] < more[1]
    mixed = [text for texts in prompts.values() for text in texts[:150]]
    words = np.array(" ".join(mixed).split(), dtype=object)
    assert index([" ".join(random.choice(words, len(text.split()))) for text in mixed]) < one
