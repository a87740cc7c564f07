"""The same in every language: clusters, structure, duplicates, leaks, terms and the prompt classifier."""

import random
import re
from itertools import pairwise

import polars as pl
import pytest

from analysis.clusters.choice.selection import select_num_clusters
from analysis.clusters.choice.structure import measure_structure
from analysis.clusters.interpretation import agreement, top_terms
from analysis.clusters.kmeans import sweep_kmeans
from analysis.corpus.cleaning import CleanConfig, clean
from analysis.experts.prompt_classifier import PromptClassifier
from analysis.features.lsa import TfidfLsa
from analysis.sources import RECORD_SCHEMA
from analysis.text.words import words
from tests.analysis.languages import UNSPACED, WORDS, documents

LANGUAGES = list(WORDS)


def dropped(rows: list[tuple[str, str]], config: CleanConfig) -> dict[str, int]:
    """Records of (prompt, split) that cleaning drops, by reason."""
    table = pl.DataFrame({"prompt": [row[0] for row in rows], "split": [row[1] for row in rows]})
    records = table.select(
        pl.lit(None if name not in (*table.columns, "source", "completion") else "s").alias(name).cast(kind)
        if name not in table.columns
        else pl.col(name).cast(kind)
        for name, kind in RECORD_SCHEMA.items()
    )
    return dict(clean(records.lazy(), config).dropped.group_by("reason").len().iter_rows())


@pytest.mark.parametrize("language", LANGUAGES)
def test_four_subjects_are_four_clusters(language: str) -> None:
    found = documents(language)
    texts = pl.Series(found.texts)
    X = TfidfLsa().fit(texts).transform(texts)
    sweep = sweep_kmeans(X, range(1, 11))
    choice = select_num_clusters(X, sweep, texts)
    assert choice.value == 4, choice.reason
    assert agreement(sweep.labels[3], [str(subject) for subject in found.subjects]).nmi >= 0.95


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_in_any_order_have_no_structure(language: str) -> None:
    """All subjects in each document."""
    glue, common, *subjects = WORDS[language]
    every, rng = " ".join([common, *subjects]).split(), random.Random(0)
    assert not measure_structure([glue.join(rng.choices(every, k=24)) for _ in range(240)]).structure


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_character_less_is_a_near_duplicate(language: str) -> None:
    texts = documents(language, 5, n_words=60).texts
    shorter = [text[: len(text) // 2] + text[len(text) // 2 + 1 :] for text in texts]
    rows = [(text, "train") for text in [*texts, *shorter]]
    assert dropped(rows, CleanConfig(decontaminate=False)) == {"near_duplicate": 20}
    assert not dropped(rows[:20], CleanConfig(decontaminate=False))


@pytest.mark.parametrize("language", ["English", "Russian", "Turkish"])
def test_a_letter_less_in_a_short_text_is_a_near_duplicate(language: str) -> None:
    """Of sixteen words, one changed word would be another document."""
    texts, shorter = [], []
    for text in documents(language, 5, n_words=16).texts:
        long = re.search(r"\w{5,}", text)
        if long is not None:
            texts.append(text)
            shorter.append(text[: long.start() + 2] + text[long.start() + 3 :])
    rows = [(text, "train") for text in [*texts, *shorter]]
    found = dropped(rows, CleanConfig(decontaminate=False)).get("near_duplicate", 0)
    assert found >= 0.8 * len(texts) > 8  # MinHash finds most pairs


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_held_out_text_inside_a_prompt_is_a_leak(language: str) -> None:
    exam, other = documents(language, 3, seed=1).texts, documents(language, 3, seed=2).texts
    glue = WORDS[language][0]
    rows = [(text, "test") for text in exam]
    rows += [(f"{a}{glue}{b}{glue}{a[:9]}", "train") for a, b in zip(other, exam, strict=True)]
    rows += [(text, "train") for text in documents(language, 3, seed=3).texts]
    assert dropped(rows, CleanConfig(near_duplicate_threshold=None)) == {"contaminated": 12}


@pytest.mark.parametrize("language", LANGUAGES)
def test_top_terms_are_of_the_subject(language: str) -> None:
    found = documents(language)
    _, common, *subjects = WORDS[language]
    for (subject,), rows in top_terms(found.texts, found.subjects, 5).group_by("cluster"):
        own = set().union(*words(subjects[int(str(subject))].split()))  # the words, or their pairs of characters
        own |= {"".join(pair) for word in subjects[int(str(subject))].split() for pair in pairwise(word)}
        if language in UNSPACED:  # a pair may lie across the end of a word
            assert len(set(rows["term"]) & own) >= 3, (subject, rows["term"].to_list())
        else:
            assert set(rows["term"]) <= own
        assert not set(rows["term"]) & set(common.split())


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_subject_is_read_off_the_prompt(language: str) -> None:
    found, new = documents(language), documents(language, 10, n_words=8, seed=9)
    classifier = PromptClassifier().fit(found.texts, [str(subject) for subject in found.subjects])
    assert classifier.validation_.accuracy >= 0.95
    assert classifier.measure(new.texts, [str(subject) for subject in new.subjects]).accuracy >= 0.95


def test_languages_beside_each_other() -> None:
    """Each subject of each language is a group of its own; none falls together as a script."""
    every = [documents(language, 20) for language in LANGUAGES]
    texts = pl.Series([text for found in every for text in found.texts])
    groups = [
        f"{language} {subject}" for language, found in zip(LANGUAGES, every, strict=True) for subject in found.subjects
    ]
    X = TfidfLsa(64).fit(texts).transform(texts)
    labels = sweep_kmeans(X, [4 * len(LANGUAGES)]).labels[0]
    assert agreement(labels, groups).nmi >= 0.95
