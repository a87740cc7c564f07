"""Features of hidden states: against scikit-learn's standardisation and PCA, and as features of any kind."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from analysis.clusters.choice.selection import elbow
from analysis.clusters.corpus_model import CorpusModel
from analysis.clusters.kmeans import sweep_kmeans
from analysis.features.hidden_states import HiddenStates
from analysis.features.loading import load_features

ENCODED_BY = {"base_model": "small"}


def states_of(texts: list[str]) -> np.ndarray:
    """Three groups by the first letter, one dimension that is 1,000 times as large, one that never changes."""
    rows = np.array([np.random.default_rng(zlib.crc32(text.encode())).normal(size=20) for text in texts])
    rows = rows.reshape(-1, 20)
    rows[:, :9] += 8 * np.array([[text.startswith(letter) for letter in "abcabcabc"] for text in texts]).reshape(-1, 9)
    rows[:, 10] *= 1000
    rows[:, 11] = 5
    return rows.astype(np.float32)


TEXTS = [f"{letter} document {i}" for i in range(60) for letter in "abc"]


@pytest.fixture(scope="module")
def features() -> HiddenStates:
    return HiddenStates(4, encoder=states_of, encoded_by=ENCODED_BY).fit(TEXTS)


def test_equals_scikit_learn(features: HiddenStates) -> None:
    scaler = StandardScaler().fit(states_of(TEXTS))
    standardised = scaler.transform(states_of(TEXTS))
    pca = PCA(4, svd_solver="full").fit(standardised)
    expected = standardised @ pca.components_.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found, explained = features.transform_states(states_of(TEXTS))
    np.testing.assert_allclose(np.abs(np.sum(pca.components_ * features.components_, axis=1)), 1, atol=1e-4)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=2e-3)
    shares = np.square(standardised @ pca.components_.T).sum(axis=1) / np.square(standardised).sum(axis=1)
    np.testing.assert_allclose(explained, shares, atol=2e-3)


def test_order_does_not_matter(features: HiddenStates) -> None:
    again = HiddenStates(4, encoder=states_of).fit(TEXTS[::-1])
    np.testing.assert_allclose(again.transform(TEXTS), features.transform(TEXTS), atol=1e-5)


def test_groups_are_found_and_new_texts_assigned(features: HiddenStates, tmp_path: Path) -> None:
    """The same sweep, elbow and corpus model as with any features."""
    rows = features.transform(TEXTS)
    sweep = sweep_kmeans(rows, range(1, 9))
    k = elbow(sweep)
    assert k == 3
    CorpusModel(features, sweep.centers[2]).save(tmp_path)
    model = CorpusModel.load(tmp_path, encoder=states_of)
    labels, distances = model.assign(["a new", "b new", "c new", "a second"])
    assert labels[0] == labels[3]
    assert len(set(labels)) == 3
    assert distances.max() < 1


def test_texts_without_words_are_zero_rows(features: HiddenStates, caplog: pytest.LogCaptureFixture) -> None:
    [block] = features.stream([["a text", "", None, "  "]])
    assert block.features.any(axis=1).tolist() == [True, False, False, False]
    assert block.explained.tolist()[1:] == [0, 0, 0]
    assert block.statistics.n_null == 1
    features.transform(["", "b"])
    assert "1 without a word" in caplog.text
    assert features.transform([]).shape == (0, 4)


def test_saved_and_loaded(features: HiddenStates, tmp_path: Path) -> None:
    features.save(tmp_path / "a")
    loaded = load_features(tmp_path / "a", encoder=states_of)
    assert isinstance(loaded, HiddenStates)
    assert loaded.encoded_by == ENCODED_BY
    np.testing.assert_array_equal(loaded.transform(TEXTS), features.transform(TEXTS))
    loaded.save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    parameters = json.loads((tmp_path / "b" / "features.json").read_text())
    parameters["parameters"]["n_components"] = 5
    (tmp_path / "b" / "features.json").write_text(json.dumps(parameters))
    with pytest.raises(ValueError, match=r"expected components \(5, 20\) .* fit again"):
        load_features(tmp_path / "b")


def test_what_is_refused(features: HiddenStates, tmp_path: Path) -> None:
    features.save(tmp_path)
    with pytest.raises(ValueError, match=r"hidden states of a base model \(.*small.*\), and there is none here"):
        load_features(tmp_path).transform(["a text"])
    with pytest.raises(ValueError, match=r"expected 20 numbers a document, as learnt from .*small.*, got 7"):
        features.transform_states(np.ones((3, 7), np.float32))
    with pytest.raises(ValueError, match="expected a finite matrix"):
        features.transform_states(np.full((3, 20), np.nan, np.float32))
    with pytest.raises(ValueError, match="at least two documents to learn from, got 1"):
        HiddenStates(encoder=states_of).fit(["one"])
    with pytest.raises(ValueError, match="n_components: expected at least 1, got 0"):
        HiddenStates(0)
