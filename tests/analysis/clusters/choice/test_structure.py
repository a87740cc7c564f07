"""Whether there are clusters at all."""

import zlib

import numpy as np
import pytest

from analysis.clusters.choice.structure import (
    MIN_WORDS,
    StructureEvidence,
    explained_by,
    measure_structure,
    vocabulary_halves,
)


def test_halves_of_the_vocabulary_have_no_word_in_common():
    texts = ["alpha beta gamma delta", "omega sigma kappa"] * 2
    first, second, n_words = vocabulary_halves(texts)
    sides = [{word for word in " ".join(texts).split() if zlib.crc32(word.encode()) & 1 == half} for half in (0, 1)]
    assert n_words == 7
    for half, words in zip((first, second), sides, strict=True):
        for row, text in zip(half, texts, strict=True):
            assert np.linalg.norm(row) == pytest.approx(1 if words & set(text.split()) else 0, abs=1e-6)


def test_explained_by_groups():
    rows = np.repeat(np.eye(3, dtype=np.float32), 40, axis=0)
    labels = np.repeat([0, 1, 2], 40).astype(np.int32)
    weights = np.ones(120)
    assert explained_by(rows, labels, weights) == pytest.approx(1)
    assert explained_by(rows, np.zeros(120, np.int32), weights) == 0
    assert explained_by(np.ones((120, 2), np.float32), labels, weights) == 0
    random = np.random.default_rng(0)
    by_chance = [explained_by(rows, random.integers(0, 30, 120).astype(np.int32), weights) for _ in range(50)]
    assert abs(np.mean(by_chance)) < 0.02  # 30 groups of 120 rows: a quarter, were chance not taken off
    ten = np.array([10.0] * 40 + [1.0] * 80)  # a weight is a number of copies
    copies = np.repeat(np.arange(120), ten.astype(int))
    noisy = rows + random.standard_normal(rows.shape).astype(np.float32)
    once, copied = (explained_by(noisy, labels, ten), explained_by(noisy[copies], labels[copies], np.ones(len(copies))))
    assert once == pytest.approx(copied, abs=0.02)  # which differ in degrees of freedom


@pytest.mark.parametrize("texts", [["", "?", "1"], ["tool 1", "tool 2"]])
def test_texts_with_no_word_or_one_have_no_structure(texts):
    assert not measure_structure(texts * 20).structure


def test_few_documents_or_few_words_are_too_little_to_say():
    words = [f"word{i}" for i in range(250)]
    texts = [" ".join(words[i % 250] for i in range(start, start + 90)) for start in range(200)]
    assert measure_structure(texts).too_small == ""
    assert measure_structure(texts[:100]).too_small == "100 of at least 128 documents"
    few_words = measure_structure(["red blue", "blue green", "green red"] * 50)
    assert few_words.too_small == f"3 of at least {MIN_WORDS} different words"


def test_one_part_is_the_less_likely_the_stronger_the_evidence():
    found = [StructureEvidence(4, 0.5, shared, 200, 500).probability_of_one for shared in (-0.1, 0.1, 0.15, 0.3, 99.0)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.99
    assert found[-1] < 1e-9
    assert found[2] == pytest.approx(0.5)  # at the limit of `structure`, so both always say the same
