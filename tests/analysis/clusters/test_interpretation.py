"""Clusters in words, documents to read, tables against labels, and the heterogeneity index."""

import numpy as np
import pytest

from analysis.clusters.interpretation import (
    agreement,
    cross_table,
    document_positions,
    examples,
    top_terms,
)

ON_A_LINE = np.array([[0.0], [1.0], [2.0], [4.9], [9.0], [10.0], [11.0], [9.5], [10.5], [40.0]])
CENTERS = np.array([[1.0], [10.0]])


def test_top_terms_by_hand():
    table = top_terms(["cat cat dog", "cat", "fish dog", "fish"], [0, 0, 1, 1])
    weights = {(row["cluster"], row["term"]): row["weight"] for row in table.iter_rows(named=True)}
    # "dog" is in half of the documents of both clusters; 4 + 3 words, 3.5 a cluster
    assert set(weights) == {(0, "cat"), (1, "fish")}
    assert weights[0, "cat"] == pytest.approx(3 / 4 * np.log(1 + 3.5 / 3))
    assert weights[1, "fish"] == pytest.approx(2 / 3 * np.log(1 + 3.5 / 2))


def test_one_cluster_keeps_its_frequent_words_and_equal_weights_are_in_order():
    assert top_terms(["pear fig fig", "pear apple"], [0, 0], n_terms=2)["term"].to_list() == ["fig", "pear"]


def test_a_label_for_each_text():
    with pytest.raises(ValueError, match="expected one for each of 2 texts, got 1"):
        top_terms(["a cat", "a dog"], [0])


def test_positions_by_hand():
    table = document_positions(ON_A_LINE, CENTERS)
    assert table["cluster"].to_list() == [0] * 4 + [1] * 6
    assert table["neighbour"].to_list() == [1] * 4 + [0] * 6
    np.testing.assert_allclose(table["distance"], [1, 0, 1, 3.9, 1, 0, 1, 0.5, 0.5, 30], rtol=1e-5)
    np.testing.assert_allclose(table["margin"][[1, 3]], [1, 1 - 3.9 / 5.1], rtol=1e-5)
    assert table.filter("is_outlier")["row"].to_list() == [9]


def test_examples_are_typical_doubtful_and_far():
    table = examples(document_positions(ON_A_LINE, CENTERS), n=1)
    rows = {(row["cluster"], row["kind"]): row["row"] for row in table.iter_rows(named=True)}
    assert rows == {
        (0, "representative"): 1,
        (0, "borderline"): 3,
        (1, "representative"): 5,
        (1, "borderline"): 9,
        (1, "outlier"): 9,
    }


def test_one_cluster_has_no_border():
    assert document_positions(ON_A_LINE, [[3.0]])["margin"].to_list() == [1.0] * len(ON_A_LINE)


def test_cross_table_and_agreement():
    labels, groups = [0, 0, 0, 1], ["law", "law", "code", "code"]
    assert cross_table(labels, groups).rows() == [
        (0, "law", 2, 2 / 3, 1.0),
        (0, "code", 1, 1 / 3, 0.5),
        (1, "code", 1, 1.0, 0.5),
    ]
    assert agreement([1, 1, 0, 0], groups).ari == agreement([1, 1, 0, 0], groups).nmi == 1
    assert agreement([0, 1, 0, 1], groups).ari < 0.1
    assert agreement([0, 0, 1, 1, 1], ["a", "a", "b", "b", None]).ari == 1  # type: ignore[list-item]  # no label, no say
