"""Names of clusters: a person's before a model's, a model's before terms; and the map with these names."""

import polars as pl
import pytest

from analysis.clusters.naming import cluster_names, name_in, name_request, named_map, names_problem

CLUSTERS = pl.DataFrame({"cluster": [0, 1, 2], "top_terms": [["bread", "oven", "dough", "salt"], ["court"], []]})


def test_a_person_goes_before_a_model_and_a_model_before_terms() -> None:
    names = cluster_names(CLUSTERS, {"1": " Contracts "}, {0: '"Baking."\nBecause of the oven', 1: "Law", 2: ""})
    assert names.rows() == [(0, "Baking", "model"), (1, "Contracts", "you"), (2, "cluster 2", "terms")]
    assert cluster_names(CLUSTERS)["name"].to_list() == ["bread, oven, dough", "court", "cluster 2"]


def test_the_tail_has_a_name_of_its_own() -> None:
    assert cluster_names(CLUSTERS, tail=1).rows()[1] == (1, "tail of small tasks", "tail")
    assert cluster_names(CLUSTERS, {"1": "Law"}, tail=1).rows()[1] == (1, "Law", "you")


def test_an_answer_that_names_two_clusters_names_none() -> None:
    names = cluster_names(CLUSTERS, {"2": "law"}, {0: "Law", 1: "Food"})
    assert names["name"].to_list() == ["bread, oven, dough", "Food", "law"]


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("Team sports", "Team sports"),
        ("**Name:** Law\n\nMore.", "Law"),
        ("\n 'Medical questions.' ", "Medical questions"),
        ("These texts are all about the law of contracts.", ""),
        (" \n", ""),
    ],
)
def test_the_name_in_an_answer(answer: str, name: str) -> None:
    assert name_in(answer) == name


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ({"0": "a", "2": "b"}, None),
        ({"3": "a"}, r"expected numbers of clusters from 0 to 2, got ['3']"),
        ({"x": "a"}, r"expected numbers of clusters from 0 to 2, got ['x']"),
        ({"0": " "}, r"expected a name for each cluster, got none for ['0']"),
        ({"0": "a", "1": "a"}, r"expected different names, got ['a'] more than once"),
    ],
)
def test_names_that_cannot_be_given(names: dict[str, str], problem: str | None) -> None:
    assert names_problem(names, 3) == problem
    if problem is not None:
        with pytest.raises(ValueError, match="expected"):
            cluster_names(CLUSTERS, names)


def test_a_request_ends_with_the_cluster_itself() -> None:
    messages = name_request(["court", "party"], ["May the\n  tenant leave?", "x" * 999])
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert "Terms: court, party\nTexts:\n- May the tenant leave?\n- xxx" in messages[-1]["content"]
    assert len(messages[-1]["content"]) < 400


def test_the_map_has_the_columns_of_embedding_atlas() -> None:
    points = pl.DataFrame(
        {"document_id": ["a"], "cluster": [1], "source": ["s"], "excerpt": ["t"], "x": [0.5], "y": [1.5]},
        schema_overrides={"cluster": pl.Int32},
    )
    (row,) = named_map(points, cluster_names(CLUSTERS)).to_dicts()
    assert row == {"x": 0.5, "y": 1.5, "cluster": 1, "name": "court", "source": "s", "document_id": "a", "text": "t"}
