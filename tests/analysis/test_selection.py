"""Choosing N: rules on curves with a known corner, structure against chance, and real corpora of known make-up."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.clustering import ClusterSweep, sweep_kmeans
from analysis.features import TfidfLsa
from analysis.rules import RULES
from analysis.selection import select_num_clusters, source_weights
from analysis.stability import half_split_agreement
from analysis.structure import cluster_overlaps, measure_structure, weakest_link


def blobs(n_blobs: int, n_rows: int = 800, spread: float = 0.15, seed: int = 0) -> np.ndarray:
    """Blobs around orthogonal directions."""
    random = np.random.default_rng(seed)
    directions = np.eye(16)[random.integers(0, n_blobs, n_rows)]
    return (directions + spread * random.standard_normal(directions.shape)).astype(np.float32)


def sweep_of(inertia: list[float]) -> ClusterSweep:
    """A sweep with a curve of one's own and nothing behind it."""
    ks = tuple(range(1, len(inertia) + 1))
    labels = np.zeros((len(ks), 100), np.int32)
    return ClusterSweep(ks, np.array(inertia), tuple(np.zeros((k, 1), np.float32) for k in ks), labels, (1,) * len(ks))


CORNER_AT_4 = [100.0, 75, 50, 25, 24, 23, 22, 21, 20]


@pytest.mark.parametrize("rule", ["l_method_linear", "second_difference", "kneed"])
def test_rules_find_the_corner_of_two_straight_lines(rule: str):
    scores = RULES[rule](np.zeros((100, 1), np.float32), sweep_of(CORNER_AT_4))
    assert np.argmax(scores) + 1 == 4


def test_l_method_finds_where_the_share_removed_by_a_cluster_falls():
    curve = [100 * 0.6 ** min(k, 4) * 0.95 ** max(k - 4, 0) for k in range(12)]  # a factor .6 up to K=5, then .95
    assert np.argmax(RULES["l_method"](np.zeros((100, 1), np.float32), sweep_of(curve))) + 1 == 5


@pytest.mark.parametrize("rule", ["calinski_harabasz", "silhouette"])
def test_rules_from_scikit_learn_agree_with_it(rule: str):
    from sklearn import metrics

    rows = blobs(3)
    sweep = sweep_kmeans(rows, range(1, 6))
    scores = RULES[rule](rows, sweep)
    function = {"calinski_harabasz": metrics.calinski_harabasz_score, "silhouette": metrics.silhouette_score}[rule]
    assert scores[0] == -np.inf
    np.testing.assert_allclose(scores[1:], [function(rows, labels) for labels in sweep.labels[1:]], rtol=1e-4)


@pytest.mark.parametrize("n_blobs", [2, 4, 7])
def test_blobs_are_counted(n_blobs: int):
    rows = blobs(n_blobs)
    choice = select_num_clusters(rows, sweep_kmeans(rows))
    assert (choice.value, choice.structure) == (n_blobs, True)
    assert choice.interval[0] <= n_blobs <= choice.interval[1]
    assert choice.stability > 0.95
    assert choice.sharpness > 2
    assert choice.runner_up not in (None, n_blobs)
    assert choice.reason.startswith(f"{n_blobs} clusters: up to there")
    assert [row["n_clusters"] for row in choice.table] == list(range(1, 21))


@pytest.mark.parametrize("stretch", [1.0, 5.0])
def test_one_cloud_is_one_part(stretch: float):
    """Also where it is long: K-means explains much of it, but no more than of any cloud of that shape."""
    rows = np.random.default_rng(0).standard_normal((1500, 8)).astype(np.float32)
    rows[:, 0] *= stretch
    choice = select_num_clusters(rows, sweep_kmeans(rows))
    assert (choice.value, choice.structure, choice.interval) == (1, False, (1, 1))
    assert choice.reason.startswith("No clear structure: one LoRA is enough.")


def test_manual_wins_but_says_what_the_evidence_says():
    rows = blobs(3)
    sweep = sweep_kmeans(rows)
    choice = select_num_clusters(rows, sweep, rule="manual", n_clusters=6)
    assert choice.value == 6
    assert "because you asked for that number; the L-method would say 3" in choice.reason
    for arguments in ({"rule": "manual"}, {"n_clusters": 3}):
        with pytest.raises(ValueError, match="expected with rule 'manual' and only there"):
            select_num_clusters(rows, sweep, **arguments)
    with pytest.raises(ValueError, match="got 21"):
        select_num_clusters(rows, sweep, rule="manual", n_clusters=21)
    with pytest.raises(ValueError, match=r"expected one of l_method, .* or manual, got 'elbow'"):
        select_num_clusters(rows, sweep, rule="elbow")
    with pytest.raises(ValueError, match=r"expected K from 1 up.*got \[2, 3\]"):
        select_num_clusters(rows, sweep_kmeans(rows, (2, 3)))


@pytest.mark.parametrize("n_distinct", [1, 2, 3, 5])
def test_a_corpus_of_a_few_repeated_documents(n_distinct: int):
    rows = np.repeat(np.eye(6)[:n_distinct], 30, axis=0)
    choice = select_num_clusters(rows, sweep_kmeans(rows))
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
    rows = np.concatenate([blobs(1, 3000), np.roll(blobs(3, 180, seed=1), 1, axis=1)])
    sources = ["big"] * 3000 + ["small"] * 180
    choice = select_num_clusters(rows, sweep_kmeans(rows, sample_weight=source_weights(sources)))
    assert choice.value == 4
    assert choice.reason.startswith("Sources are badly imbalanced (17 to 1); balanced sweep used.")


def test_overlap_is_zero_across_a_gap_and_one_inside_a_cloud():
    random = np.random.default_rng(0)
    apart = np.concatenate([random.standard_normal((500, 2)), random.standard_normal((500, 2)) + 20])
    cloud = random.uniform(-1, 1, (2000, 2))
    for rows, low, high in ((apart, 0, 0.01), (cloud, 0.8, 1.05)):
        sweep = sweep_kmeans(rows, (2,))
        overlap = cluster_overlaps(rows.astype(np.float32), sweep.centers[0], sweep.labels[0])[0, 1]
        assert low <= overlap <= high


def test_weakest_link_is_the_smallest_overlap_that_must_be_crossed():
    chain = np.array([[1, 0.9, 0.1], [0.9, 1, 0.4], [0.1, 0.4, 1]])  # 0 - 1 - 2: .1 need not be crossed
    assert weakest_link(chain) == pytest.approx(0.4)
    assert weakest_link(np.ones((1, 1))) == 1


def test_halves_agree_on_blobs_and_not_on_a_cloud():
    assert half_split_agreement(blobs(3), 3) > 0.99
    assert half_split_agreement(np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32), 6) < 0.5
    assert np.isnan(half_split_agreement(np.eye(4, dtype=np.float32), 3))


def read(folder: Path, stem: str, n: int) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{stem}_train.parquet").sample(n, seed=0)


def choose(texts: list[str]):
    features = TfidfLsa().fit(texts).transform(texts)
    return select_num_clusters(features, sweep_kmeans(features))


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


def test_evidence_reports_chance_beside_what_was_found():
    rows = blobs(4)
    evidence = measure_structure(rows, sweep_kmeans(rows))
    assert evidence.explained > 0.5 > evidence.explained_by_chance > 0
    assert evidence.overlap < 0.1
    assert evidence.structure
