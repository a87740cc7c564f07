"""The tail of small tasks: on points by hand, in any order, from a sample, and on real text."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.clusters import tail
from analysis.clusters.description import describe_tail
from analysis.clusters.interpretation import document_positions
from analysis.clusters.tail import (
    Communities,
    answer_lengths,
    assign_with_tail,
    find_communities,
    is_small,
    small_communities,
    split_off_tail,
)
from analysis.features.lsa import TfidfLsa

SIZES = (200, 200, 50, 50)
"""Two large tasks and two small ones, each around a corner of its own."""


@pytest.fixture(scope="module")
def tasks() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, tokens and task of each document. Answers have one token in small tasks, a hundred in large ones."""
    random = np.random.default_rng(0)
    task = np.repeat(np.arange(4), SIZES)
    rows = (np.eye(4)[task] + random.normal(0, 0.05, (len(task), 4))).astype(np.float32)
    return rows, np.where(task < 2, 100, 1), task


def test_small_tasks_are_the_tail_in_any_order(tasks: tuple[np.ndarray, ...]) -> None:
    rows, tokens, task = tasks
    found = small_communities(rows, tokens)
    np.testing.assert_array_equal(found, task >= 2)
    order = np.random.default_rng(1).permutation(len(rows))
    np.testing.assert_array_equal(small_communities(rows[order], tokens[order]), found[order])
    assert not small_communities(rows, np.ones(len(rows), int)).any()


def test_equal_documents_stay_together(tasks: tuple[np.ndarray, ...]) -> None:
    rows, tokens, _ = tasks
    twice = np.concatenate([rows, rows[::-1]])
    _, of_row = find_communities(twice, np.concatenate([tokens, tokens[::-1]]))
    np.testing.assert_array_equal(of_row[: len(rows)], of_row[len(rows) :][::-1])


def test_documents_outside_the_sample_join_the_nearest_community(
    tasks: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, tokens, task = tasks
    monkeypatch.setattr(tail, "SAMPLE", 350)
    np.testing.assert_array_equal(small_communities(rows, tokens), task >= 2)
    order = np.random.default_rng(1).permutation(len(rows))
    np.testing.assert_array_equal(small_communities(rows[order], tokens[order]), task[order] >= 2)


def test_few_documents_are_one_community() -> None:
    for n in (1, 2, 5):
        rows = np.eye(5, dtype=np.float32)[:n]
        assert not small_communities(rows, np.ones(n, int)).any()
    np.testing.assert_array_equal(is_small(np.array([0, 1, 1]), [1, 500, 500], 3), [True, False, True])
    with pytest.raises(ValueError, match=r"tokens: expected one number for each of 5 rows, got shape \[4\]"):
        find_communities(rows, np.ones(4, int))


def test_the_others_get_as_many_clusters_as_before(tasks: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    rows, tokens, task = tasks
    found = split_off_tail(rows, tokens, np.eye(4, dtype=np.float32)[:2])
    assert found.communities is not None
    assert found.facts["cluster"] == 2
    assert found.facts["share_of_documents"] == pytest.approx(0.2)
    assert found.reason.startswith("Cluster 2 is the tail of small tasks: 2 communities")
    assert "together 20% of the documents and 0.2% of these words" in found.reason
    nearest = np.linalg.norm(found.centers[:, None] - np.eye(4)[:2], axis=2)
    np.testing.assert_allclose(nearest.min(axis=1), 0, atol=0.05)

    found.communities.save(tmp_path)
    loaded = Communities.load(tmp_path)
    assert loaded is not None
    labels, squared_distances = assign_with_tail(np.eye(4), found.centers, loaded)
    assert sorted(labels[:2]) == [0, 1]
    assert labels[2:].tolist() == [2, 2]
    np.testing.assert_allclose(squared_distances, 0, atol=0.01)
    assert Communities.load(tmp_path / "nothing") is None

    in_tail = found.communities.is_small[found.of_row]
    np.testing.assert_array_equal(in_tail, task >= 2)
    distances = np.sqrt(found.communities.squared_distances(rows[in_tail]))
    positions = document_positions(rows, found.centers, in_tail, distances)
    np.testing.assert_array_equal(positions["cluster"].to_numpy() == 2, in_tail)
    assert positions.filter(cluster=2)["neighbour"].is_in([0, 1]).all()
    assert positions["margin"].is_between(0, 1).all()
    assert positions["distance"].max() < 0.4


def test_a_tail_that_cannot_be_says_why(tasks: tuple[np.ndarray, ...]) -> None:
    rows, tokens, _ = tasks
    centers = np.eye(4, dtype=np.float32)
    one = split_off_tail(rows, tokens, centers[:1])
    assert (one.communities, one.reason) == (None, "A corpus of one cluster has no tail.")
    few = split_off_tail(rows[:420], tokens[:420], centers[:2])
    assert few.communities is None
    np.testing.assert_array_equal(few.centers, centers[:2])
    assert few.reason == "The tail of small tasks has 4.8% of the documents; below 5% it gets no cluster."
    equal = np.where(np.arange(len(rows))[:, None] < 400, rows[:1], rows)
    with pytest.raises(
        ValueError, match=r"expected at least 60 different documents outside the tail, one for each cluster, got \d+"
    ):
        split_off_tail(equal, tokens, rows[-60:])


def test_on_real_text_the_tail_is_small_tasks(shared_corpora: Path) -> None:
    names = ("gsm8k", "medquad", "legalbench")
    tables = [pl.read_parquet(shared_corpora / f"{name}_train.parquet").sample(500, seed=1) for name in names]
    prompt = pl.concat_str("instruction", "input", separator="\n", ignore_nulls=True)
    documents = pl.concat(tables).select(source="corpus", prompt=prompt, completion="output")
    rows = TfidfLsa(32).fit(documents["prompt"]).transform(documents["prompt"])
    lengths = answer_lengths(documents["completion"])
    in_tail = small_communities(rows, lengths)
    order = np.random.default_rng(1).permutation(len(rows))
    np.testing.assert_array_equal(small_communities(rows[order], lengths[order]), in_tail[order])
    sources = documents.filter(pl.Series(in_tail))["source"].value_counts(sort=True, normalize=True)
    assert sources["source"][0].startswith("legalbench")
    assert sources["proportion"][0] > 0.8
    assert in_tail.mean() > 0.05


def test_answers_are_measured_in_words_of_their_script() -> None:
    answers = pl.Series(["Yes.", "It is 7, or \n 8", "東京です。", "GPU加速", "ไทย", "हिन्दी भाषा", ""])
    assert answer_lengths(answers).tolist() == [2, 6, 5, 3, 3, 2, 0]


def test_the_parts_of_the_tail_are_described() -> None:
    table = pl.DataFrame(
        {
            "source": ["news"] * 4 + ["games", "games", "news"],
            "prompt": ["a long story"] * 4 + ["chess opening", "chess endgame", "weather tomorrow"],
            "completion": ["x" * 100] * 4 + ["yes", "no", "rain"],
        }
    )
    communities = Communities(np.zeros((3, 2), np.float32), np.array([False, True, True]))
    parts = describe_tail(table, "prompt", communities, np.array([0, 0, 0, 0, 2, 2, 1], np.int32))
    assert parts.select("part", "n_documents").rows() == [(0, 2), (1, 1)]
    assert parts["share_of_answers"].to_list() == pytest.approx([2 / 7, 1 / 7])
    assert parts["top_terms"][0][0] == "chess"
    assert parts["sources"].to_list() == [["games"], ["news"]]
