"""The sample depends on the texts and the seed only."""

import numpy as np
import polars as pl
import pytest

from analysis.text.sampling import sample_documents, sample_texts

TEXTS = [f"text number {i}" for i in range(5000)]


def test_order_and_batches_do_not_matter() -> None:
    sample = sample_texts([TEXTS], 300)
    shuffled = np.random.default_rng(1).permutation(TEXTS).tolist()
    batches = [shuffled[:10], pl.Series(shuffled[10:4000]), shuffled[4000:]]
    assert sample_texts(batches, 300).equals(sample)
    assert len(set(sample.to_pylist())) == 300


def test_the_seed_matters() -> None:
    first, second = (set(sample_texts([TEXTS], 300, random_state=seed).to_pylist()) for seed in (0, 1))
    assert 5 < len(first & second) < 45  # 300 * 300 / 5000 = 18 on average


def test_a_repeated_text_counts_once() -> None:
    assert sample_texts([["same"] * 100_000, ["other"]], 10).to_pylist() in (["same", "other"], ["other", "same"])


def test_every_text_has_the_same_chance() -> None:
    drawn = np.zeros(200)
    texts = [f"{'long ' * (i % 7)}{i}" for i in range(200)]
    for seed in range(400):
        drawn[[texts.index(text) for text in sample_texts([texts], 50, seed).to_pylist()]] += 1
    # Binomial(400, 1/4): mean 100, standard deviation 8.7.
    assert 60 < drawn.min() < drawn.max() < 140
    assert 7 < drawn.std() < 10.5


def test_smaller_corpora_are_taken_whole() -> None:
    assert sorted(sample_texts([["b", "a"], [], ["c"]], 10).to_pylist()) == ["a", "b", "c"]
    assert sample_texts([], 10).to_pylist() == []
    with pytest.raises(ValueError, match="sample size: expected at least 1, got 0"):
        sample_texts([TEXTS], 0)


def test_documents_are_drawn_by_their_ids() -> None:
    numbers = np.random.default_rng(0).integers(0, 2**64, 4000, dtype=np.uint64)
    documents = pl.DataFrame({"document_id": [f"{number:016x}" for number in numbers], "text": TEXTS[:4000]})
    sample = sample_documents(documents.lazy(), 200, random_state=5)
    assert len(sample) == 200
    assert sample.join(documents, on=["document_id", "text"], how="semi").equals(sample)
    again = sample_documents(documents.sample(fraction=1, shuffle=True, seed=1).lazy(), 200, random_state=5)
    assert again.sort("document_id").equals(sample.sort("document_id"))
    other = sample_documents(documents.lazy(), 200, random_state=6)
    assert len(other.join(sample, on="document_id", how="semi")) < 40  # 10 on average
    assert sample_documents(documents.lazy(), 9999).equals(documents)
