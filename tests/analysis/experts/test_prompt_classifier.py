"""The classifier of prompts, the choice of groups that get an expert, and gates from either kind of model."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from analysis.clusters.corpus_model import CorpusModel
from analysis.experts.agreement import Agreement
from analysis.experts.grouping import choose_grouping
from analysis.experts.prompt_classifier import PromptClassifier
from analysis.experts.prompt_gates import load_group_model, prompt_gates
from analysis.features.lsa import TfidfLsa

ANIMALS = [f"how much does the {animal} number {i} eat" for i in range(40) for animal in ("cat", "dog", "hen")]
SHIPS = [f"how fast does the {ship} number {i} sail" for i in range(40) for ship in ("boat", "ferry", "yacht")]
TREES = [f"how tall does the {tree} number {i} grow" for i in range(40) for tree in ("oak", "elm", "ash")]
PROMPTS = [*ANIMALS, *SHIPS, *TREES]
LABELS = ["animals"] * 120 + ["ships"] * 120 + ["trees"] * 120


@pytest.fixture(scope="module")
def classifier() -> PromptClassifier:
    return PromptClassifier().fit(PROMPTS, LABELS)


def test_groups_are_found(classifier: PromptClassifier) -> None:
    assert classifier.classes_ == ("animals", "ships", "trees")
    assert classifier.predict(["what does a dog eat", "may a yacht sail", "does an elm grow"]) == [
        "animals",
        "ships",
        "trees",
    ]
    assert classifier.validation_.accuracy == 1
    assert classifier.validation_.n_prompts == 360  # each prompt once
    assert classifier.validation_.confusion["label"].to_list() == ["animals", "ships", "trees"]


@pytest.mark.parametrize("groups", [2, 3])
def test_equals_scikit_learn(groups: int) -> None:
    """Against the pipeline written down plainly, on the prompts that were learnt from (two groups have one logit)."""
    prompts, labels = np.array(PROMPTS[: groups * 120]), np.array(LABELS[: groups * 120])
    ours = PromptClassifier(C=10).fit(list(prompts), labels)
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    theirs = LogisticRegression(C=10, max_iter=1000)
    theirs.fit(vectoriser.fit_transform(prompts), labels)
    expected = theirs.predict_proba(vectoriser.transform(prompts))
    np.testing.assert_allclose(ours.predict_proba(list(prompts)), expected, atol=2e-3)


def test_cross_validation_equals_scikit_learn() -> None:
    """Each fold predicted by a regression on the others, with the terms of all prompts; noisy labels, three groups."""
    rng = np.random.default_rng(0)
    labels = np.array(LABELS)
    noisy = rng.random(360) < 0.2
    labels[noisy] = rng.choice(["animals", "ships", "trees"], noisy.sum())
    ours = PromptClassifier(C=10).fit(PROMPTS, labels)
    rows, folds = ours._draw(pl.Series(PROMPTS), np.unique(labels, return_inverse=True)[1].astype(np.int32))
    assert sorted(rows) == list(range(360))
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(np.array(PROMPTS)[rows])
    found = 0
    for fold in range(5):
        regression = LogisticRegression(C=10, max_iter=1000).fit(words[folds != fold], labels[rows][folds != fold])
        found += int((regression.predict(words[folds == fold]) == labels[rows][folds == fold]).sum())
    assert abs(ours.validation_.n_found - found) <= 2
    assert 0.7 < ours.validation_.accuracy < 0.95


def test_interval_of_the_accuracy() -> None:
    """Wilson's interval, written down; and none without prompts."""
    confusion = pl.DataFrame({"label": ["a", "a"], "predicted": ["a", "b"], "n_prompts": [112, 3]})
    share, n, z = 112 / 115, 115, 1.959964
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    np.testing.assert_allclose(Agreement(confusion).interval, (middle - half, middle + half), atol=1e-6)
    nothing = Agreement(confusion.clear())
    assert nothing.interval == (0, 1)
    assert np.isnan(nothing.accuracy)


def test_order_and_batches_do_not_matter(classifier: PromptClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    order = np.random.default_rng(0).permutation(len(PROMPTS))
    shuffled = PromptClassifier().fit([PROMPTS[i] for i in order], [LABELS[i] for i in order])
    np.testing.assert_array_equal(shuffled.predict_proba(PROMPTS), classifier.predict_proba(PROMPTS))
    monkeypatch.setattr("analysis.experts.prompt_classifier.BATCH", 7)
    np.testing.assert_allclose(classifier.predict_proba(PROMPTS), shuffled.predict_proba(PROMPTS), atol=1e-6)


def test_equal_prompts_are_on_one_side() -> None:
    """Labels at random, each prompt three times: prompts learnt by heart must not count as found."""
    rng = np.random.default_rng(0)
    prompts = [f"word{i} thing{i}" for i in range(300)]
    labels = rng.integers(0, 2, 300)
    found = PromptClassifier().fit(prompts * 3, np.tile(labels, 3)).validation_
    assert 0.25 < found.accuracy < 0.75


def test_a_sample_is_balanced() -> None:
    """A group of ten among 240 others is learnt whole."""
    prompts, labels = [*ANIMALS, *SHIPS, *TREES[:10]], [*LABELS[:240], *["trees"] * 10]
    classifier = PromptClassifier(sample_size=60).fit(prompts, labels)
    numbers = np.repeat([0, 1, 2], [120, 120, 10]).astype(np.int32)
    rows, _ = classifier._draw(pl.Series(prompts), numbers)
    assert np.bincount(numbers[rows]).tolist() == [20, 20, 10]


def test_has_the_interface_of_a_corpus_model(classifier: PromptClassifier) -> None:
    labels, doubts = classifier.assign([PROMPTS[0], "zebra"])
    assert labels[0] == 0
    assert doubts[0] < 0.2 < doubts[1]
    np.testing.assert_allclose(classifier.soft_assign(PROMPTS, 1), classifier.predict_proba(PROMPTS))
    warm, cold = (classifier.soft_assign(PROMPTS[:1], temperature).max() for temperature in (10, 0.1))
    assert warm < classifier.predict_proba(PROMPTS[:1]).max() < cold
    assert classifier.assign([])[0].shape == (0,)
    assert classifier.predict_proba([]).shape == (0, 3)


def test_saved_and_loaded(classifier: PromptClassifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "a")
    loaded = load_group_model(tmp_path / "a")
    assert isinstance(loaded, PromptClassifier)
    np.testing.assert_array_equal(loaded.predict_proba(PROMPTS), classifier.predict_proba(PROMPTS))
    assert loaded.validation_.accuracy == classifier.validation_.accuracy
    assert loaded.validation_.confusion.equals(classifier.validation_.confusion)
    loaded.save(tmp_path / "b")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["bias.npy", "classifier.json", "idf.npy", "terms.json", "weights.npy"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    np.save(tmp_path / "b" / "bias.npy", np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"expected weights \[3, \d+\].*got .*\[2\]; fit again"):
        PromptClassifier.load(tmp_path / "b")


def test_what_cannot_be_learnt() -> None:
    classifier = PromptClassifier()
    with pytest.raises(ValueError, match=r"at least two different groups, got \['x'\]"):
        classifier.fit(["a b", "c d"], ["x", "x"])
    with pytest.raises(ValueError, match="expected one for each of 2 prompts, got 1"):
        classifier.fit(["a b", "c d"], ["x"])
    with pytest.raises(ValueError, match="expected one for each of 2 prompts, got 2, 1 of them null"):
        classifier.fit(["a b", "c d"], ["x", None])
    with pytest.raises(TypeError, match="expected text, got null 1 times"):
        classifier.fit(["a b", None], ["x", "y"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="expected text, got Int64"):
        classifier.fit(pl.Series([1, 2]), ["x", "y"])
    with pytest.raises(ValueError, match="words of two characters, got none in 2"):
        classifier.fit(["a", "?"], ["x", "y"])
    with pytest.raises(ValueError, match="C: expected a positive number, got 0"):
        PromptClassifier(C=0)


def test_two_prompts_are_enough_to_fit() -> None:
    classifier = PromptClassifier().fit(["red wine", "blue sky"], [10, 9])
    assert classifier.predict(["wine", "sky"]) == ["10", "9"]
    assert classifier.classes_ == ("9", "10")  # as numbers sort
    assert np.isnan(classifier.validation_.accuracy)


def test_gates_from_either_kind_of_model(classifier: PromptClassifier, tmp_path: Path) -> None:
    features = TfidfLsa(2, min_df=1).fit(PROMPTS)
    corpus_model = CorpusModel(features, features.transform([ANIMALS[0], SHIPS[0]]))
    corpus_model.save(tmp_path)
    prompts = [ANIMALS[1], SHIPS[1], TREES[1]]
    np.testing.assert_array_equal(prompt_gates(classifier, prompts), np.eye(3))
    gates = prompt_gates(load_group_model(tmp_path), prompts)
    np.testing.assert_array_equal(gates, np.eye(2)[corpus_model.assign(prompts)[0]])
    assert gates.dtype == np.float32
    with pytest.raises(ValueError, match=r"expected classifier\.json or centers\.npy in .*, got neither"):
        load_group_model(tmp_path / "nothing")


def test_n_does_not_hang_on_the_seed() -> None:
    """Three sources, 2% of the prompts with a wrong one: at the limit, and yet the same N for all seeds and orders."""
    rng = np.random.default_rng(0)
    sources = np.array(LABELS)
    sources[rng.choice(360, 7, replace=False)] = "animals"
    table = pl.DataFrame({"prompt": PROMPTS, "source": sources, "task": [None] * 360}, schema_overrides={"task": str})  # type: ignore[dict-item]
    for seed in range(10):
        grouping = choose_grouping(table.sample(fraction=1, shuffle=True, seed=seed), 2, random_state=seed)
        assert (grouping.kind, len(grouping.groups)) == ("source", 3)
        assert "not distinguishable from the limit of 98.0%: sources kept" in grouping.reason


def test_six_real_corpora(shared_corpora: Path) -> None:
    """Sources of public corpora are read off prompts that were not learnt from."""
    names = ("dolly15k", "flan10", "gsm8k", "legalbench", "mbxp", "medquad")
    tables = [
        pl.read_parquet(shared_corpora / f"{name}_train.parquet")
        .select(prompt=pl.concat_str("instruction", pl.col("input").fill_null(""), separator="\n"), source=pl.lit(name))
        .sample(700, seed=0)
        for name in names
    ]
    train = pl.concat(table[:500] for table in tables)
    test = pl.concat(table[500:] for table in tables)
    classifier = PromptClassifier().fit(train["prompt"], train["source"])
    assert classifier.validation_.accuracy > 0.98
    assert classifier.measure(test["prompt"], test["source"]).accuracy > 0.98


@pytest.mark.parametrize("groups", [2, 3])
def test_one_prompt_is_assigned_as_many_are(groups: int) -> None:
    classifier = PromptClassifier(C=10).fit(PROMPTS[: groups * 120], LABELS[: groups * 120])
    odd = [
        "",
        " \n",
        "nothing known here",
        "the the the dog",
        "DOG Dog dog",
        "Κατάλογος ΟΔΟΣ",
        "東京の dog",
        "\ud800 dog",
    ]
    for prompt in [*odd, *PROMPTS[::17]]:
        expected = PromptClassifier.assign(classifier, [prompt] if "\ud800" not in prompt else ["\ufffd dog"])
        group, distance = classifier.assign_one(prompt)
        assert group == expected[0][0]
        assert distance == pytest.approx(expected[1][0], abs=1e-6)
