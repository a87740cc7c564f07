"""TF-IDF against scikit-learn's TfidfVectorizer on real and on odd text."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from analysis.text.terms.tfidf import Tfidf

ODD = [
    "Ünïcode WÖRTER, naïve café",
    "ΟΔΥΣΣΕΥΣ ΣΟΦΟΣ",
    "İstanbul'da",
    "中文 文本，中文",
    "snake_case_name x1 22",
    "",
    "a b c",
]


@pytest.fixture(scope="module")
def texts(shared_corpora: Path) -> list[str]:
    """Real text of five kinds, with code and non-ASCII words, and the odd ones."""
    names = ["gsm8k", "medquad", "mbxp", "legalbench", "flan10"]
    frames = [pl.read_parquet(shared_corpora / f"{name}_test.parquet").head(300) for name in names]
    real = pl.concat(frames).select(pl.concat_str("instruction", "output", separator="\n")).to_series().to_list()
    assert not all(text.isascii() for text in real)
    return real + 2 * ODD


@pytest.mark.parametrize("sublinear_tf", [False, True])
@pytest.mark.parametrize("min_df", [1, 3])
def test_equals_scikit_learn(texts: list[str], min_df: int, sublinear_tf: bool) -> None:
    theirs = TfidfVectorizer(min_df=min_df, sublinear_tf=sublinear_tf)
    expected = theirs.fit_transform(texts)
    ours = Tfidf(max_features=None, min_df=min_df, sublinear_tf=sublinear_tf, tokens="scikit-learn")
    fitted = ours.fit_transform(texts)
    assert ours.vocabulary_ == theirs.get_feature_names_out().tolist()
    np.testing.assert_allclose(ours.idf_, theirs.idf_, rtol=1e-12)
    for matrix in (fitted, ours.transform(texts)):
        assert matrix.dtype == np.float32
        assert abs(matrix - expected).max() < 1e-6
    unseen = [*(text[::-1] for text in texts[:200]), *ODD]
    assert abs(ours.transform(unseen) - theirs.transform(unseen)).max() < 1e-6


def test_max_features_keeps_the_most_frequent(texts: list[str]) -> None:
    theirs = TfidfVectorizer(max_features=500).fit(texts)
    ours = Tfidf(max_features=500, min_df=1, tokens="scikit-learn").fit(texts)
    # scikit-learn leaves the choice among equally frequent terms at the cut to an unstable sort.
    counts = dict(zip(*_frequencies(texts), strict=True))
    assert len(ours.vocabulary_) == 500
    differing = set(ours.vocabulary_) ^ set(theirs.vocabulary_)
    assert {counts[term] for term in differing} <= {min(counts[term] for term in ours.vocabulary_)}


def _frequencies(texts: list[str]) -> tuple[list[str], list[int]]:
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer()
    return counter.fit(texts).get_feature_names_out().tolist(), counter.transform(texts).sum(axis=0).A1.tolist()


def test_ascii_has_the_vocabulary_of_scikit_learn_by_default(texts: list[str]) -> None:
    plain = [text for text in texts if text.isascii()]
    theirs = TfidfVectorizer(sublinear_tf=True)
    expected = theirs.fit_transform(plain)
    ours = Tfidf(max_features=None, min_df=1)
    assert abs(ours.fit_transform(plain) - expected).max() < 1e-6
    assert ours.vocabulary_ == theirs.get_feature_names_out().tolist()


def test_ties_at_the_cut_go_by_the_alphabet() -> None:
    assert Tfidf(max_features=2, min_df=1).fit(["dd cc bb aa", "dd"]).vocabulary_ == ["aa", "dd"]


def test_computed_by_hand() -> None:
    tfidf = Tfidf(min_df=1, sublinear_tf=False)
    matrix = tfidf.fit_transform(["cat cat dog", "dog"]).toarray()
    cat_idf = np.log(3 / 2) + 1
    np.testing.assert_allclose(tfidf.idf_, [cat_idf, 1])
    np.testing.assert_allclose(matrix, [np.array([2 * cat_idf, 1]) / np.hypot(2 * cat_idf, 1), [0, 1]], rtol=1e-6)


def test_where_no_term_is_frequent_enough_all_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    assert Tfidf(min_df=2).fit(["only one document"]).vocabulary_ == ["document", "one", "only"]
    assert "no term occurs in 2 documents: all 3 terms are kept" in caplog.text


@pytest.mark.parametrize("texts", [[], [""], ["a b", "?!"]])
def test_texts_without_words_are_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match=f"words of at least two characters, got none in {len(texts)} texts"):
        Tfidf().fit(texts)


def test_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match="max_features: expected at least 1 or None, got 0"):
        Tfidf(max_features=0)
    with pytest.raises(ValueError, match=r"min_df: expected a number of documents, at least 1, got 0\.5"):
        Tfidf(min_df=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tokens: expected one of \['unicode', 'scikit-learn'\], got 'sklearn'"):
        Tfidf(tokens="sklearn")  # type: ignore[arg-type]
