"""Choosing N: rules on curves with a known corner, structure in both halves of a vocabulary, and real corpora."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.clusters.choice.selection import select_num_clusters, source_weights
from analysis.clusters.kmeans import sweep_kmeans
from analysis.features.lsa import TfidfLsa


def blobs(n_blobs: int, n_rows: int = 800, spread: float = 0.15, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Blobs around orthogonal directions, and texts that have the words of their blob."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, n_blobs, n_rows)
    directions = np.eye(16)[labels]
    rows = (directions + spread * random.standard_normal(directions.shape)).astype(np.float32)
    return rows, sentences(labels, seed)


def sentences(labels: np.ndarray, seed: int = 0) -> list[str]:
    """Twelve words each, out of thirty that only documents of the same label have."""
    random = np.random.default_rng(seed)
    return [" ".join(f"w{label}n{i}" for i in random.integers(0, 30, 12)) for label in labels]


@pytest.mark.parametrize("n_blobs", [2, 4, 7])
def test_blobs_are_counted(n_blobs: int):
    rows, texts = blobs(n_blobs)
    choice = select_num_clusters(rows, sweep_kmeans(rows), texts)
    assert (choice.value, choice.structure) == (n_blobs, True)
    assert choice.interval[0] <= n_blobs <= choice.interval[1]
    assert choice.stability > 0.95
    assert choice.sharpness > 2
    assert choice.runner_up not in (None, n_blobs)
    assert choice.reason.startswith(f"{n_blobs} clusters: up to there")
    assert [row["n_clusters"] for row in choice.table] == list(range(1, 21))


def test_one_vocabulary_is_one_part():
    """Even where the vectors have clusters: words that go together by chance say nothing about other words."""
    rows, _ = blobs(4)
    texts = sentences(np.zeros(len(rows), int))
    choice = select_num_clusters(rows, sweep_kmeans(rows), texts)
    assert (choice.value, choice.structure, choice.interval) == (1, False, (1, 1))
    assert choice.reason.startswith("No clear structure: one LoRA is enough.")
    assert choice.evidence.explained > 0.1
    assert abs(choice.evidence.shared) < 0.02


def test_manual_wins_but_says_what_the_evidence_says():
    rows, texts = blobs(3)
    sweep = sweep_kmeans(rows)
    choice = select_num_clusters(rows, sweep, texts, n_clusters=6)
    assert choice.value == 6
    assert "because you asked for that number; the L-method would say 3" in choice.reason
    with pytest.raises(ValueError, match="got 21"):
        select_num_clusters(rows, sweep, texts, n_clusters=21)
    with pytest.raises(ValueError, match=r"expected K from 1 up.*got \[2, 3\]"):
        select_num_clusters(rows, sweep_kmeans(rows, (2, 3)), texts)
    with pytest.raises(ValueError, match="texts: expected one for each of 800 rows, got 799"):
        select_num_clusters(rows, sweep, texts[1:])


@pytest.mark.parametrize("n_distinct", [1, 2, 3, 5])
def test_a_corpus_of_a_few_repeated_documents(n_distinct: int):
    labels = np.repeat(np.arange(n_distinct), 30)
    texts = [f"every word of it once more {'abcde'[label] * 3} {'vwxyz'[label] * 2}" for label in labels]
    choice = select_num_clusters(np.eye(6)[labels], sweep_kmeans(np.eye(6)[labels]), texts)
    assert choice.value == n_distinct


def test_weights_cap_sources_at_the_smallest():
    assert source_weights(["a"] * 300 + ["b"] * 100) is None
    weights = source_weights(["a"] * 1000 + ["b"] * 100)
    assert weights is not None
    np.testing.assert_allclose([weights[:1000].sum(), weights[1000:].sum()], 100)
    tiny = source_weights(pl.Series(["a"] * 1000 + ["b"]))  # one document does not decide: the cap is 50
    assert tiny is not None
    np.testing.assert_allclose([tiny[:1000].sum(), tiny[1000:].sum()], [50, 1])


def test_a_balanced_sweep_is_said_and_finds_small_sources():
    (big, _), (small, _) = blobs(1, 3000), blobs(3, 180, seed=1)
    rows = np.concatenate([big, np.roll(small, 1, axis=1)])
    texts = sentences(np.concatenate([np.zeros(3000, int), 1 + np.argmax(small, axis=1)]))
    sources = ["big"] * 3000 + ["small"] * 180
    choice = select_num_clusters(rows, sweep_kmeans(rows, sample_weight=source_weights(sources)), texts)
    assert choice.value == 4
    assert choice.reason.startswith("Sources are badly imbalanced (17 to 1); balanced sweep used.")


def read(folder: Path, stem: str, n: int) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{stem}_train.parquet").sample(n, seed=0)


def choose(texts: list[str]):
    features = TfidfLsa().fit(texts).transform(texts)
    return select_num_clusters(features, sweep_kmeans(features), texts)


def prompts(table: pl.DataFrame) -> list[str]:
    return table.select(pl.concat_str("instruction", "input", separator="\n", ignore_nulls=True)).to_series().to_list()


def test_four_real_domains_give_four_in_any_order(shared_corpora: Path):
    texts = [t for stem in ("gsm8k", "medquad", "legalbench", "mbxp") for t in prompts(read(shared_corpora, stem, 250))]
    assert choose(texts).value == 4
    assert abs(choose([texts[i] for i in np.random.default_rng(1).permutation(len(texts))]).value - 4) <= 1


def test_one_real_task_and_shuffled_words_give_one(shared_corpora: Path):
    assert choose(prompts(read(shared_corpora, "gsm8k", 1000))).value == 1
    texts = [t for stem in ("gsm8k", "medquad", "mbxp") for t in prompts(read(shared_corpora, stem, 300))]
    words = np.array(" ".join(texts).split(), dtype=object)
    random = np.random.default_rng(0)
    shuffled = [" ".join(random.choice(words, len(text.split()))) for text in texts]
    choice = choose(shuffled)
    assert (choice.value, choice.structure) == (1, False)
