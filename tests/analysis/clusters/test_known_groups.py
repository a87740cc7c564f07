"""Known groups: the nearest mixture against plain least squares, and what is outside of it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from analysis.clusters import known_groups
from analysis.clusters.corpus_model import CorpusModel
from analysis.clusters.known_groups import KnownGroups, describe_groups, nearest_mixture
from analysis.features.lsa import TfidfLsa
from tests.analysis.languages import documents

LANGUAGES = ("English", "Chinese", "Hindi")


@pytest.fixture(scope="module")
def corpus() -> tuple[CorpusModel, KnownGroups]:
    """Three sources, each in a language of its own, a quarter of the documents held out."""
    texts = pl.Series([text for language in LANGUAGES for text in documents(language, 60).texts])
    sources = pl.Series(LANGUAGES).gather(np.repeat(range(3), 240))
    is_held_out = np.arange(len(texts)) % 4 == 0
    features = TfidfLsa(16).fit(texts.filter(~is_held_out))
    rows = features.transform(texts)
    model = CorpusModel(features, [rows[i : i + 240].mean(axis=0) for i in (0, 240, 480)])
    (block,) = model.stream([texts])
    known = describe_groups(model, texts, sources, block.labels, block.explained, is_held_out)
    assert known is not None
    return model, known


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(8, 30))
def test_the_nearest_mixture_is_that_of_least_squares(seed: int, n_groups: int, n_terms: int) -> None:
    rng = np.random.default_rng(seed)
    profiles = rng.random((n_groups, n_terms)).astype(np.float32)
    profile = rng.random(n_terms)
    weights = nearest_mixture(profiles, profile)
    best, residual = nnls(profiles.T.astype(float), profile)
    assert (weights >= 0).all()
    assert np.linalg.norm(weights @ profiles - profile) == pytest.approx(residual, rel=1e-3)
    np.testing.assert_allclose(weights @ profiles, best @ profiles, atol=0.05)


@pytest.mark.parametrize("language", LANGUAGES)
def test_new_documents_of_a_source_are_inside(corpus: tuple[CorpusModel, KnownGroups], language: str) -> None:
    model, known = corpus
    nearest = known.nearest(model.features, documents(language, 25, seed=5).texts)  # type: ignore[arg-type]
    assert nearest.outside < 0.02
    assert nearest.sources[language] > 0.98
    assert nearest.n_documents == 100
    np.testing.assert_allclose(nearest.explained_shares.sum(axis=1), 1)
    assert nearest.n_explained == pytest.approx(60, rel=0.1)  # the held-out documents of one source


def test_a_group_that_is_left_out_is_outside(corpus: tuple[CorpusModel, KnownGroups]) -> None:
    model, known = corpus
    kept = np.array([source != "Hindi" for source in known.sources])
    fewer = KnownGroups(
        tuple(source for source in known.sources if source != "Hindi"),
        known.profiles[kept],
        known.explained_counts[kept],
        known.source_counts[kept],
        known.cluster_counts,
        known.unknown_token_shares,
    )
    hindi, english = documents("Hindi", 25, seed=5).texts, documents("English", 25, seed=5).texts
    features: TfidfLsa = model.features  # type: ignore[assignment]
    all_new, half_new = fewer.nearest(features, hindi), fewer.nearest(features, hindi[::2] + english[::2])
    assert all_new.outside > 0.9
    assert 0.2 < half_new.outside < 0.8
    assert set(half_new.terms) <= set(all_new.terms) | {word for text in hindi for word in text.split()}
    assert fewer.nearest(features, []).outside == 0
    assert fewer.nearest(features, ["?"]).outside == 0


def test_saved_and_loaded(corpus: tuple[CorpusModel, KnownGroups], tmp_path: Path) -> None:
    _, known = corpus
    known.save(tmp_path)
    loaded = KnownGroups.load(tmp_path)
    np.testing.assert_allclose(loaded.profiles, known.profiles, atol=1e-3)
    assert loaded.sources == known.sources
    assert loaded.unknown_token_shares == known.unknown_token_shares
    for name in known_groups.COUNTS:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(known, name))
    np.save(tmp_path / "profiles.npy", known.profiles[:-1])
    with pytest.raises(ValueError, match=r"expected .* groups and 50 bins in .*; run the job `corpus` again"):
        KnownGroups.load(tmp_path)


def test_small_sources_are_put_together() -> None:
    sources = pl.Series(["large"] * 45 + ["small"] * 12 + ["tiny"] * 3 + ["mid"] * 25)
    clusters = np.array([0] * 21 + [1] * 20 + [2] * 4 + [0] * 15 + [1] * 10 + [2] * 15, np.int32)
    names, groups = known_groups._groups(sources, clusters)
    sizes = dict(zip(names, np.bincount(groups).tolist(), strict=False))
    assert sorted(np.bincount(groups).tolist()) == [19, 20, 21, 25]
    assert sizes["mid"] == 25  # no cell of 20, but a source of 25
    assert sizes["other sources"] == 19  # twelve, three, and what is left of the large one
