"""Joint features: each view is what the features of its own would be, and groups that only answers show are found."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from analysis.clusters.choice.selection import elbow
from analysis.clusters.corpus_model import CorpusModel
from analysis.clusters.kmeans import assign, sweep_kmeans
from analysis.corpus.document_text import document_text
from analysis.features.hidden_states import HiddenStates
from analysis.features.joint import ANSWER_TERMS, AnswerTerms, JointFeatures
from analysis.features.loading import encoded_by, load_features
from analysis.features.lsa import TfidfLsa

TOPICS = ("river water stream", "engine wheel motor")
ANSWERS = {"yes": "indeed certainly true", "no": "never wrong false"}
DOCUMENTS = pl.DataFrame(
    [
        {"prompt": f"about {topic} number{i % 7}", "completion": f"{ANSWERS[kind]} number{i % 5}"}
        for i in range(40)
        for topic in TOPICS
        for kind in ANSWERS
    ]
)
PAIRS = DOCUMENTS.select(text=document_text("pair"))["text"]
ENCODED_BY = {"base_model": "small"}


def states_of(texts: list[str]) -> np.ndarray:
    """A state by the first topic, and noise by the text."""
    rows = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=6) for text in texts]
    return np.array(rows, np.float32) + 9 * np.array([["river" in text] * 6 for text in texts], np.float32)


def joint(hidden: bool) -> JointFeatures:
    states = HiddenStates(4, encoder=states_of, encoded_by=ENCODED_BY) if hidden else None
    return JointFeatures(states, n_components=(8, 7)).fit(PAIRS)


def answer_terms(answers: list[str]) -> Any:
    return TfidfVectorizer(token_pattern=ANSWER_TERMS, lowercase=False, sublinear_tf=True, min_df=2).fit_transform(
        answers
    )


@pytest.mark.parametrize("hidden", [False, True])
def test_each_view_is_as_if_it_were_alone(hidden: bool) -> None:
    rows = joint(hidden).transform(PAIRS)
    views = [
        TfidfLsa(8).fit(DOCUMENTS["prompt"]).transform(DOCUMENTS["prompt"]),
        normalize(TruncatedSVD(7, random_state=0).fit_transform(answer_terms(DOCUMENTS["completion"].to_list()))),
    ]
    if hidden:
        alone = HiddenStates(4, encoder=states_of).fit(DOCUMENTS["prompt"])
        views.append(alone.transform(DOCUMENTS["prompt"]))
    expected = np.hstack(views) / np.sqrt(len(views))
    np.testing.assert_allclose(rows @ rows.T, expected @ expected.T, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_answers_show_groups_that_prompts_do_not() -> None:
    """Two topics with two kinds of answers each: four groups, of which prompts alone show two."""
    assert elbow(sweep_kmeans(joint(False).transform(PAIRS), range(1, 9))) == 4
    prompts = TfidfLsa(8).fit(DOCUMENTS["prompt"]).transform(DOCUMENTS["prompt"])
    assert elbow(sweep_kmeans(prompts, range(1, 9))) == 2


def test_saved_features_assign_the_same(tmp_path: Path) -> None:
    features = joint(True)
    rows = features.transform(PAIRS)
    centers = sweep_kmeans(rows, (4,)).centers[0]
    CorpusModel(features, centers, "pair").save(tmp_path)
    assert encoded_by(tmp_path) == ENCODED_BY
    labels, _ = CorpusModel.load(tmp_path, states_of).assign(PAIRS)
    np.testing.assert_array_equal(labels, assign(rows, centers)[0])
    with pytest.raises(ValueError, match="these features are hidden states"):
        load_features(tmp_path).transform(PAIRS)


def test_words_alone_need_no_base_model(tmp_path: Path) -> None:
    features = joint(False)
    features.save(tmp_path)
    assert encoded_by(tmp_path) is None
    assert json.loads((tmp_path / "features.json").read_text())["views"] == ["prompt", "answer"]
    np.testing.assert_array_equal(load_features(tmp_path).transform(PAIRS), features.transform(PAIRS))


def test_answers_of_one_character_are_told_apart() -> None:
    rows = AnswerTerms(4).fit(["B", "7", "{}", "b"] * 5).transform(["B", "b", "7", "{ }", "unknown"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 1, 0], atol=1e-5)
    assert np.abs((rows[:4] @ rows[:4].T) - np.eye(4)).max() < 0.9


def test_answers_without_a_shared_term_are_refused() -> None:
    pairs = pl.DataFrame({"prompt": DOCUMENTS["prompt"], "completion": ""}).select(t=document_text("pair"))["t"]
    with pytest.raises(ValueError, match=r"the view of each document's answer: .* take features of another kind"):
        JointFeatures().fit(pairs)
