"""What gets an expert: sources, tasks or clusters."""

import re

import polars as pl
import pytest

from analysis.experts.agreement import Agreement
from analysis.experts.grouping import choose_grouping, clusters_problem
from tests.analysis.experts.test_prompt_classifier import LABELS, PROMPTS


def documents(sources: list[str], tasks: list[str | None]) -> pl.DataFrame:
    return pl.DataFrame({"prompt": PROMPTS, "source": sources, "task": tasks}, schema_overrides={"task": pl.String})


ONE_SOURCE = documents(["all"] * 360, list(LABELS))


THREE_SOURCES = documents(LABELS, [None] * 360)


UNREADABLE = documents([("x", "y")[i % 2] for i in range(360)], [None] * 360)


@pytest.mark.parametrize(
    ("table", "options", "kind", "number", "reason"),
    [
        (THREE_SOURCES, {}, "source", 3, "One expert for each of 3 sources: the source of 100.0% of 360 training"),
        (ONE_SOURCE, {}, "task", 3, "One expert for each of 3 tasks: the task of 100.0%"),
        (
            UNREADABLE,
            {},
            "cluster",
            5,
            "One expert for each of 5 clusters: the source of .* is found .*, which is less than 98.0%",
        ),
        (THREE_SOURCES, {"max_experts": 2}, "cluster", 5, "3 sources are more than 2; 360 documents have no task"),
        (THREE_SOURCES, {"fixed_number": True}, "cluster", 5, "3 sources are not the 5 experts asked for"),
        (THREE_SOURCES, {"grouping": "clusters"}, "cluster", 5, "as asked for"),
        (UNREADABLE, {"grouping": "sources"}, "source", 2, "One expert for each of 2 sources"),
    ],
)
def test_what_gets_an_expert(
    table: pl.DataFrame, options: dict[str, object], kind: str, number: int, reason: str
) -> None:
    grouping = choose_grouping(table, 5, **options)  # type: ignore[arg-type]
    assert (grouping.kind, len(grouping.groups)) == (kind, number)
    assert re.search(reason, grouping.reason)
    assert (grouping.classifier is None) == (kind == "cluster")


@pytest.mark.parametrize(
    ("table", "options", "number", "reason"),
    [
        (ONE_SOURCE, {}, 1, "The corpus is one cluster, so there is one expert: plain LoRA."),
        (UNREADABLE, {}, 1, "one cluster"),
        (THREE_SOURCES, {"fixed_number": True}, 1, "one cluster"),
        (THREE_SOURCES, {"max_experts": 2}, 1, "one cluster"),
        (THREE_SOURCES, {"grouping": "sources"}, 3, "One expert for each of 3 sources"),
        (THREE_SOURCES, {}, 3, "Words alone show no clusters, but what is told this well is a part."),
        (THREE_SOURCES[::9], {}, 1, "Sources are not told surely enough to get one each: the source of 100.0% of 40"),
    ],
)
def test_a_corpus_of_one_cluster(table: pl.DataFrame, options: dict[str, object], number: int, reason: str) -> None:
    grouping = choose_grouping(table, 1, **options)  # type: ignore[arg-type]
    assert len(grouping.groups) == number
    assert reason in grouping.reason


def test_groupings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="grouping 'tasks': 360 documents have no task; take clusters or auto"):
        choose_grouping(THREE_SOURCES, 5, grouping="tasks")
    with pytest.raises(ValueError, match="grouping 'sources': 3 sources are not the 2 experts asked for"):
        choose_grouping(THREE_SOURCES, 2, grouping="sources", fixed_number=True)
    with pytest.raises(ValueError, match="expected one of auto, sources, tasks, clusters, got 'router'"):
        choose_grouping(THREE_SOURCES, 5, grouping="router")


def test_few_prompts_do_not_decide_against_sources() -> None:
    """Ten prompts a source say too little; wrong labels of half of many prompts say enough."""
    few = pl.concat([THREE_SOURCES[start : start + 10] for start in (0, 120, 240)])
    assert choose_grouping(few, 2).kind == "source"
    assert choose_grouping(UNREADABLE, 2).kind == "cluster"


@pytest.mark.parametrize(
    ("n_found", "n_prompts", "says"),
    [
        (
            880,
            1000,
            r"the cluster of 88.0% of 1000 training prompts is found .*, which is less than 95%. Such experts lost",
        ),
        (940, 1000, ""),  # 95% lies within the interval
        (990, 1000, ""),
        (4, 5, ""),
        (0, 0, ""),
    ],
)
def test_clusters_that_prompts_do_not_tell(n_found: int, n_prompts: int, says: str) -> None:
    labels = pl.Series(["a"] * n_prompts, dtype=pl.String)
    predicted = pl.Series(["a"] * n_found + ["b"] * (n_prompts - n_found), dtype=pl.String)
    assert re.match(says or "$", clusters_problem(Agreement.of(labels, predicted)))
