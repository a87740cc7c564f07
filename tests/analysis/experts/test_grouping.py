"""What gets an expert: sources, tasks or clusters."""

import re

import polars as pl
import pytest

from analysis.experts.grouping import choose_grouping
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


def test_a_homogeneous_corpus_keeps_one_expert() -> None:
    assert choose_grouping(THREE_SOURCES, 1).groups == ("0",)
    assert len(choose_grouping(THREE_SOURCES, 1, grouping="sources").groups) == 3


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
