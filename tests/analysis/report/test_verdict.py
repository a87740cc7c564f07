"""What the verdict says, and what it does not dare to say."""

import dataclasses

import pytest

from analysis.report import ReportInputs
from analysis.report.sections import sections
from analysis.report.summary import summarise
from analysis.report.verdict import matched_difference, verdict
from tests.analysis.report.small_reports import CROSS, EMPTY, evaluation, grouped_with, with_seeds


def test_verdict_of_a_run_that_spent_enough(inputs: ReportInputs):
    assert [(s.answer, s.level) for s in verdict(with_seeds(inputs))] == [
        ("4 clusters at the elbow, and as many experts", "good"),
        ("Yes, by 1.46%", "good"),
        ("Yes", "good"),
        ("Looks so, but A started equal", "neutral"),
        ("With live routing, or as one LoRA for each domain", "neutral"),
    ]


def test_below_the_budget_nothing_is_green_but_the_clusters(inputs: ReportInputs):
    statements = verdict(inputs)
    assert [s.level for s in statements] == ["good", "unknown", "unknown", "unknown", "neutral"]
    assert {s.answer for s in statements[1:4]} == {"Not enough to tell"}
    assert "This run has 1 of at least 3 seeds. It measured: Held-out loss -0.0210 nats" in statements[1].detail


def test_given_gates_are_asked_whether_the_own_expert_is_best(inputs: ReportInputs):
    question = "Is each expert better on its own group than the other experts are?"
    answers = []
    worse = [(d, g, e, loss if g == e else loss / 4, n) for d, g, e, loss, n in CROSS]
    for rows in (CROSS, [], worse):
        (statement,) = (s for s in verdict(grouped_with(inputs, rows)) if s.question == question)
        answers.append((statement.answer, statement.level))
    assert answers == [("No difference shown", "neutral"), ("Not measured", "unknown"), ("No", "bad")]
    more = CROSS + [(f"{d}-{i}", g, e, loss, n) for i in range(9) for d, g, e, loss, n in CROSS]
    (statement,) = (s for s in verdict(grouped_with(inputs, more)) if s.question == question)
    assert (statement.answer, statement.level) == ("Yes", "good")
    assert "in 2 of 2 groups" in statement.detail


def test_one_expert_is_called_a_lora():
    choice = {"num_clusters": 1, "reason": "No clear structure.", "structure": False}
    statements = verdict(dataclasses.replace(EMPTY, choice=choice))
    assert statements[0].answer == "One cluster at the elbow: one LoRA is enough"
    assert statements[-1].answer == "As a plain LoRA"


def test_experts_given_by_the_prompt_are_called_by_their_groups(inputs: ReportInputs):
    grouping = {
        "num_experts": 3, "group_kind": "source", "groups": ["law", "code", "<b>maths</b>"],
        "reason": "Prompts tell the source.", "held_out_accuracy": 0.992,
    }  # fmt: skip
    grouped = dataclasses.replace(inputs, grouping=grouping)
    statement = verdict(grouped)[0]
    assert (statement.answer, statement.level) == ("3 experts, one for each source", "neutral")
    assert "On the test documents: 99.2%." in statement.detail
    assert "Clusters at the elbow of K-means: 4." in statement.detail
    numbers = summarise(grouped)["numbers"]
    assert (numbers["experts trained"], numbers["clusters at the elbow"]) == (3, 4)
    tables = {t.caption: t for t in sections(grouped)[1].tables}
    assert tables["Experts: one for each source"].rows[0] == (0, "law")


def test_difference_over_seeds_is_a_paired_t_interval():
    rows = [("hydralora", s, 1.0 + d) for s, d in enumerate((0.01, 0.02, 0.03))] + [("lora", s, 1.0) for s in range(3)]
    difference = matched_difference(dataclasses.replace(EMPTY, evaluation=evaluation(rows)))
    assert difference is not None
    assert difference.value == pytest.approx(0.02)
    assert (difference.high - difference.low) / 2 == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert difference.how == "paired over 3 seeds"


def test_one_seed_is_said_to_be_unsure():
    inputs = dataclasses.replace(EMPTY, evaluation=evaluation([("hydralora", 0, 1.40), ("lora", 0, 1.42)]))
    statement = verdict(inputs)[1]
    assert statement.answer == "Not enough to tell"
    assert "one seed, unpaired" in statement.detail


def test_worse_is_called_worse(inputs: ReportInputs):
    assert inputs.paired is not None
    worse = inputs.paired.with_columns(difference=0.03, low=0.01, high=0.05)
    assert verdict(with_seeds(dataclasses.replace(inputs, paired=worse)))[1].answer == "No, worse by 2.08%"
