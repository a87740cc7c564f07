"""Assigning documents: by hand in two dimensions, in blocks, on disk and back."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from analysis.clusters.corpus_model import CorpusModel
from analysis.clusters.tail import Communities
from analysis.features.lsa import TfidfLsa
from analysis.features.vectoriser import FeatureBlock, TextStatistics
from analysis.text.blocks import Texts

CATS = ["cats purr and meow", "a cat will purr", "meow meow purr cats", "cats sleep and purr"]
SHIPS = ["ships sail the sea", "the sea carries ships", "sail ships on the sea", "a ship on the sea"]


@pytest.fixture(scope="module")
def model() -> CorpusModel:
    features = TfidfLsa(4).fit(CATS + SHIPS)
    rows = features.transform(CATS + SHIPS)
    return CorpusModel(features, [rows[:4].mean(axis=0), rows[4:].mean(axis=0)])


class Angles:
    """Features of texts that are angles in degrees: points on the unit circle."""

    n_components = 2

    def stream(self, batches: Iterable[Texts]) -> Iterator[FeatureBlock]:
        for batch in batches:
            angles = np.deg2rad([float(text) for text in batch])
            rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
            yield FeatureBlock(rows, np.ones(len(rows), np.float32), TextStatistics(len(rows)))

    def transform(self, texts: Texts) -> np.ndarray:
        return next(self.stream([texts])).features


def test_nearest_centre_by_hand() -> None:
    model = CorpusModel(Angles(), [[1, 0], [0, 1]])  # type: ignore[arg-type]
    labels, squared_distances = model.assign(["0", "90", "180", "60"])
    assert labels.tolist() == [0, 1, 1, 1]
    np.testing.assert_allclose(squared_distances, [0, 0, 2, 2 - np.sqrt(3)], atol=1e-6)
    weights = model.soft_assign(["0", "45", "90"], temperature=0.5)
    # Squared distances 0 and 2: weights 1 and exp(-4), normalised.
    np.testing.assert_allclose(weights[0], np.array([1, np.exp(-4)]) / (1 + np.exp(-4)), rtol=1e-5)
    np.testing.assert_allclose(weights[1], [0.5, 0.5], rtol=1e-5)
    assert weights[2].tolist() == weights[0, ::-1].tolist()


def test_new_documents_join_the_cluster_of_their_subject(model: CorpusModel) -> None:
    labels, _ = model.assign(["purr, cats!", "the sea", "SHIPS", "Meow"])
    assert labels.tolist() == [0, 1, 1, 0]
    weights = model.soft_assign(["purr, cats!", "the sea"], temperature=0.1)
    np.testing.assert_array_equal(weights.argmax(axis=1), [0, 1])
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    assert np.isfinite(model.soft_assign(["the sea"], temperature=1e-9)).all()


def test_a_stream_gives_what_one_call_gives(model: CorpusModel) -> None:
    labels, squared_distances = model.assign(CATS + SHIPS)
    blocks = list(model.stream([CATS[:1], [], CATS[1:], SHIPS]))
    assert [len(block.labels) for block in blocks] == [1, 3, 4]
    np.testing.assert_array_equal(np.concatenate([block.labels for block in blocks]), labels)
    streamed = np.concatenate([block.squared_distances for block in blocks])
    np.testing.assert_array_equal(streamed, squared_distances)


def test_documents_without_known_words_are_assigned_and_counted(
    model: CorpusModel, caplog: pytest.LogCaptureFixture
) -> None:
    labels, squared_distances = model.assign(["zebra", "", "cats"])
    nearest_to_zero = int((model.centers**2).sum(axis=1).argmin())
    assert labels[:2].tolist() == [nearest_to_zero] * 2
    np.testing.assert_allclose(squared_distances[0], (model.centers[nearest_to_zero] ** 2).sum(), rtol=1e-5)
    assert "of 3 documents, 1 without a word, 1 without a known word" in caplog.text


def test_saved_and_loaded(model: CorpusModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = CorpusModel.load(tmp_path)
    np.testing.assert_array_equal(loaded.centers, model.centers)
    for ours, theirs in zip(loaded.assign(CATS + SHIPS), model.assign(CATS + SHIPS), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert {path.suffix for path in tmp_path.iterdir()} == {".npy", ".json"}


@pytest.mark.parametrize("centers", [[[1.0, 2.0]], [1.0, 2.0, 3.0, 4.0], np.zeros((0, 4))])
def test_centres_must_fit(model: CorpusModel, centers) -> None:
    with pytest.raises(ValueError, match=r"centers: expected shape \[n_clusters, 4\], got \["):
        CorpusModel(model.features, centers)


def test_values_must_be_usable(model: CorpusModel) -> None:
    with pytest.raises(ValueError, match="centers: expected finite numbers"):
        CorpusModel(model.features, [[np.nan] * 4])
    with pytest.raises(ValueError, match="temperature: expected a positive number, got 0"):
        model.soft_assign(CATS, temperature=0)


def test_documents_nearest_to_a_small_community_belong_to_the_tail(model: CorpusModel, tmp_path: Path) -> None:
    rows = model.features.transform(CATS + SHIPS)
    communities = Communities(np.stack([rows[0], rows[1], rows[4]]), np.array([False, True, False]))
    with_tail = CorpusModel(model.features, model.centers, communities=communities)
    assert with_tail.n_groups == 3
    labels, squared_distances = with_tail.assign([CATS[0], CATS[1], SHIPS[0]])
    assert labels.tolist() == [0, 2, 1]
    assert squared_distances[1] == pytest.approx(0, abs=1e-6)
    with_tail.save(tmp_path)
    np.testing.assert_array_equal(CorpusModel.load(tmp_path).assign(CATS)[0], with_tail.assign(CATS)[0])
    with pytest.raises(ValueError, match="got a tail, which has none; take a prompt classifier"):
        with_tail.soft_assign(CATS, temperature=1)
