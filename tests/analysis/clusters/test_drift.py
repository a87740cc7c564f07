"""Drift: by hand, and on real corpora with and without a subject that the corpus does not have."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.clusters.corpus_model import AssignedBlock, CorpusModel
from analysis.clusters.drift import AssignmentSummary, measure_drift, summarise, summarise_corpus
from analysis.clusters.kmeans import sweep_kmeans
from analysis.features.lsa import TfidfLsa
from analysis.features.vectoriser import TextStatistics

OLD_SUBJECTS = ["gsm8k", "legalbench", "mbxp", "flan10"]


def block(labels: list[int], explained: list[float], n_known: int = 8) -> AssignedBlock:
    statistics = TextStatistics(len(labels), n_tokens=10, n_known_tokens=n_known)
    return AssignedBlock(
        np.array(labels, np.int32), np.full(len(labels), 0.5), np.array(explained, np.float32), statistics
    )


def test_by_hand() -> None:
    reference = summarise([block([0, 1], [0.25, 0.25]), block([0, 1], [0.25, 0.25])], 3)
    assert reference.cluster_counts == (2, 2, 0)
    assert reference.mean_squared_distance == 0.5
    new = summarise([block([0, 1, 2, 2], [0.25, 0.25, 0.01, 0], n_known=6)], 3)
    drift = measure_drift(reference, new)
    assert drift.mix_shift == 0.5
    assert drift.novelty == pytest.approx(1 / 3)  # one of the three with words
    assert drift.distance_ratio == 1
    assert (drift.unknown_token_share, drift.reference_unknown_token_share) == pytest.approx((0.4, 0.2))
    assert not drift.reconsider
    assert drift.reason == (
        "Too few documents (3 new, 4 of the corpus) to tell whether the new ones are new in kind; "
        "the mix of clusters has moved by 50%."
    )


def test_the_corpus_is_summarised_by_its_held_out_documents_in_the_mix_of_the_others() -> None:
    # Three of four fitted documents are in cluster 0; of the held-out ones it is one of three.
    labels, explained = [0, 0, 0, 1, 0, 1, 1], [0.9, 0.9, 0.9, 0.9, 0.25, 0.01, 0.01]
    summary = summarise_corpus(block(labels, explained), np.arange(7) >= 4, 2)
    assert summary.cluster_counts == (3, 1)
    assert summary.n_explained == 3
    assert {i: share for i, share in enumerate(summary.explained_shares) if share} == {25: 0.75, 5: 0.25}
    fitted_only = summarise_corpus(block(labels, explained), np.zeros(7, bool), 2)
    assert fitted_only.n_explained == 7


def test_better_explained_documents_are_not_new() -> None:
    reference = summarise([block([0] * 1000, [0.1] * 1000)], 1)
    drift = measure_drift(reference, summarise([block([0] * 1000, [0.4] * 1000)], 1))
    assert drift.novelty == 0
    assert not drift.reconsider


def test_a_moved_mix_is_said() -> None:
    reference = summarise([block([0] * 500 + [1] * 500, [0.2] * 1000)], 2)
    drift = measure_drift(reference, summarise([block([0] * 1000, [0.2] * 1000)], 2))
    assert not drift.reconsider
    assert "But the mix of clusters has moved by 50%: consider training on the new mix" in drift.reason


def test_features_that_cannot_tell_say_so() -> None:
    summary = summarise([block([0] * 10, [0.0] * 10)], 1)
    drift = measure_drift(summary, summary)
    assert drift.novelty is None
    assert drift.reason.startswith("The features cannot show whether these documents are new in kind")


def test_summaries_are_saved_and_loaded(tmp_path: Path) -> None:
    summary = summarise([block([0, 1], [0.5, 0.1])], 2)
    summary.save(tmp_path / "summary.json")
    assert AssignmentSummary.load(tmp_path / "summary.json") == summary


def test_nothing_to_compare() -> None:
    empty, two = summarise([], 2), summarise([block([0, 1], [0.5, 0.5])], 2)
    with pytest.raises(ValueError, match="expected documents on both sides, got none"):
        measure_drift(two, empty)
    with pytest.raises(ValueError, match="expected summaries of one corpus model, got 2 and 3 clusters"):
        measure_drift(two, summarise([block([0, 1], [0.5, 0.5])], 3))


def test_a_held_out_subject_is_found(shared_corpora: Path) -> None:
    corpus = pl.concat([_texts(shared_corpora, name, "train", 800) for name in OLD_SUBJECTS])
    features = TfidfLsa().fit(corpus)
    model = CorpusModel(features, sweep_kmeans(features.transform(corpus), [4]).centers[0])
    reference = summarise(model.stream([corpus]), 4)
    same = pl.concat([_texts(shared_corpora, name, "test", 300) for name in OLD_SUBJECTS])
    new = _texts(shared_corpora, "medquad", "test", 300)
    drift = measure_drift(reference, summarise(model.stream([same]), 4))
    assert not drift.reconsider, drift
    drift = measure_drift(reference, summarise(model.stream([same, new]), 4))  # a fifth of the documents
    assert drift.reconsider, drift
    assert drift.reason.startswith("Reconsider N: at least 1")


def _texts(folder: Path, name: str, split: str, n: int) -> pl.Series:
    documents = pl.read_parquet(folder / f"{name}_{split}.parquet").sample(n, seed=0, with_replacement=False)
    return documents.select(
        text=pl.concat_str("instruction", "input", "output", separator="\n", ignore_nulls=True)
    ).to_series()
