"""LSA features against scikit-learn's, on disk and back, and on bad texts."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from analysis.features.loading import load_features
from analysis.features.lsa import TfidfLsa
from analysis.features.vectoriser import TextStatistics


@pytest.fixture(scope="module")
def texts(shared_corpora: Path) -> pl.Series:
    names = ["gsm8k", "medquad", "mbxp", "legalbench"]
    frames = [pl.read_parquet(shared_corpora / f"{name}_test.parquet").head(300) for name in names]
    return pl.concat(frames).select(text=pl.concat_str("instruction", "output", separator="\n")).to_series()


@pytest.fixture(scope="module")
def fitted(texts: pl.Series) -> TfidfLsa:
    return TfidfLsa(16).fit(texts)


def test_rows_are_the_projected_tfidf(fitted: TfidfLsa, texts: pl.Series) -> None:
    vectoriser = TfidfVectorizer(vocabulary=fitted.vocabulary_, sublinear_tf=True)
    vectoriser.idf_ = fitted.idf_
    projected = vectoriser.transform(texts.to_list()) @ fitted.components_.T
    features = fitted.transform(texts)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, normalize(projected), atol=2e-6)
    explained = np.concatenate([block.explained for block in fitted.stream([texts])])
    np.testing.assert_allclose(explained, (projected**2).sum(axis=1), atol=2e-6)


def test_components_are_the_leading_directions(fitted: TfidfLsa, texts: pl.Series) -> None:
    vectoriser = TfidfVectorizer(vocabulary=fitted.vocabulary_, sublinear_tf=True)
    exact = np.linalg.svd(vectoriser.fit_transform(texts.unique().to_list()).toarray(), compute_uv=False)[:16]
    found = np.linalg.norm(vectoriser.transform(texts.unique().to_list()) @ fitted.components_.T, axis=0)
    assert (found**2).sum() > 0.995 * (exact**2).sum()
    np.testing.assert_allclose(fitted.components_ @ fitted.components_.T, np.eye(16), atol=1e-5)


def test_same_bytes_in_any_order_with_any_threads(
    fitted: TfidfLsa, texts: pl.Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    again = TfidfLsa(16).fit(texts.shuffle(seed=1))
    assert again.vocabulary_ == fitted.vocabulary_
    assert again.components_.tobytes() == fitted.components_.tobytes()
    assert again.transform(texts).tobytes() == fitted.transform(texts).tobytes()


def test_a_document_has_the_same_row_alone_and_in_any_batch(fitted: TfidfLsa, texts: pl.Series) -> None:
    together = fitted.transform(texts)
    np.testing.assert_array_equal(fitted.transform([texts[7]])[0], together[7])
    blocks = list(fitted.stream([texts[:5], texts[5:6].to_list(), texts[6:].to_arrow()]))
    np.testing.assert_array_equal(np.concatenate([block.features for block in blocks]), together)


def test_saved_and_loaded(fitted: TfidfLsa, texts: pl.Series, tmp_path: Path) -> None:
    fitted.save(tmp_path / "features")
    loaded = load_features(tmp_path / "features")
    assert isinstance(loaded, TfidfLsa)
    assert loaded.transform(texts).tobytes() == fitted.transform(texts).tobytes()
    first = {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()}
    loaded.save(tmp_path / "again")
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == first


def test_damaged_files_are_refused(fitted: TfidfLsa, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    vocabulary = json.loads((tmp_path / "vocabulary.json").read_text())
    (tmp_path / "vocabulary.json").write_text(json.dumps(vocabulary[:-1]))
    with pytest.raises(ValueError, match=r"expected components \(16, \d+\) .* fit again"):
        TfidfLsa.load(tmp_path)
    (tmp_path / "features.json").write_text(json.dumps({"kind": "other"}))
    with pytest.raises(ValueError, match="expected features of kind tfidf_lsa or sentence_embeddings or hidden_states"):
        load_features(tmp_path)


def test_bad_texts_are_counted_and_logged(fitted: TfidfLsa, caplog: pytest.LogCaptureFixture) -> None:
    bad = [b"the number of \x00 apples", b"", None, b"\xff\xfe", b"qqqq zzzzzz", "число 数 the".encode(), b"a b ?"]
    [block] = fitted.stream([pl.Series(bad)])
    assert block.statistics == TextStatistics(
        n_documents=7, n_null=1, n_invalid=1, n_without_words=4, n_without_known_terms=1, n_tokens=9, n_known_tokens=5
    )
    assert block.features.any(axis=1).tolist() == [True, False, False, False, False, True, False]
    assert np.isfinite(block.features).all()
    fitted.transform(pl.Series(bad))
    assert "of 7 documents, 1 null, 1 not valid UTF-8, 4 without a word, 1 without a known word" in caplog.text
    caplog.clear()
    fitted.transform(["the number of apples"])
    assert not caplog.text


def test_fewer_directions_than_components(caplog: pytest.LogCaptureFixture) -> None:
    features = TfidfLsa(32).fit(["cats purr", "cats meow loudly", "cats purr"])
    assert "n_components is 32, but 2 documents with" in caplog.text
    rows = features.transform(["cats purr", "meow cats"])
    assert rows.shape == (2, 32)
    assert not rows[:, 2:].any()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


def test_one_repeated_document() -> None:
    rows = TfidfLsa(4).fit(["same words here"] * 1000).transform(["same words here"] * 3)
    np.testing.assert_allclose(np.abs(rows), [[1, 0, 0, 0]] * 3, atol=1e-6)


def test_no_documents(fitted: TfidfLsa) -> None:
    assert fitted.transform([]).shape == (0, 16)


def test_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match="n_components: expected at least 1, got 0"):
        TfidfLsa(0)
    with pytest.raises(ValueError, match="sample size: expected at least 1, got 0"):
        TfidfLsa(sample_size=0).fit(["some words"])


def test_import_is_light() -> None:
    imported = "analysis.features.lsa, analysis.clusters.corpus_model, analysis.clusters.drift"
    code = f"import sys, {imported}; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"numba", "sklearn", "scipy", "torch", "sentence_transformers"}.isdisjoint(modules)
