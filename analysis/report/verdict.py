"""The verdict of a run: a few questions with answers from its tables, and how certain each answer is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.adapters.cross_experts import cross_experts, mean_interval
from analysis.corpus.data_card import halved_sources
from analysis.report.budget import spent
from analysis.report.inputs import ReportInputs

GENERAL_SERVING = (
    "Live routing needs this package in the process that serves. For fixed gates (an average over a calibration set, "
    "one domain or one cluster) hydralora.export_lora writes a standard PEFT LoRA that serves anywhere; check "
    "the loss it costs first."
)
NOT_ENOUGH = "Not enough to tell"


@dataclass(frozen=True)
class Statement:
    """One line of the verdict.

    Attributes:
        detail: evidence in one or two sentences.
        level: "good", "bad", "neutral", or "unknown" if the tables do not answer the question.
    """

    question: str
    answer: str
    detail: str
    level: str


@dataclass(frozen=True)
class Difference:
    """Loss of the method minus that of the matched baseline, with a 95% interval; nan if it cannot be estimated."""

    value: float
    low: float
    high: float
    relative: float
    how: str


def verdict(inputs: ReportInputs) -> tuple[Statement, ...]:
    """The statements of the verdict, in order of importance to the reader."""
    if inputs.corpus_only:
        return (_number_of_experts(inputs), *_lost_sources(inputs))
    return (
        _number_of_experts(inputs),
        _within_budget(inputs, _comparison(inputs)),
        _within_budget(inputs, _specialisation(inputs)),
        _within_budget(inputs, _observation(inputs)),
        Statement("How is it served?", _serving_words(inputs), inputs.serving or GENERAL_SERVING, "neutral"),
        *_lost_sources(inputs),
    )


def _within_budget(inputs: ReportInputs, statement: Statement) -> Statement:
    """The statement, or a grey one if the run is too small for a yes or a no. The measured values stay in it."""
    shortfalls = spent(inputs).shortfalls
    if statement.level not in ("good", "bad", "neutral") or not shortfalls:
        return statement
    detail = f"This run has {', '.join(shortfalls)}. It measured: {statement.detail}"
    return Statement(statement.question, NOT_ENOUGH, detail, "unknown")


def _lost_sources(inputs: ReportInputs) -> tuple[Statement, ...]:
    """A statement if cleaning dropped half of a source or more, else none."""
    card = inputs.data_card or {}
    lost = halved_sources(card) if "sources" in card and "dropped" in card else []
    if not lost:
        return ()
    answer = f"No, half of {len(lost)} {'source' if len(lost) == 1 else 'sources'} or more is gone"
    return (Statement("Is the corpus what was read?", answer, ". ".join(lost) + ".", "bad"),)


def matched_difference(inputs: ReportInputs) -> Difference | None:
    """The difference from the matched baseline over all documents; None if one of the losses is missing.

    It comes from `paired` if that has the row. Otherwise it is computed over the seeds that both have (t interval).
    With only one seed each, the interval assumes independent errors and so is too wide.
    """
    evaluation = inputs.evaluation
    if evaluation is None:
        return None
    rows = evaluation.filter(pl.col("group_kind") == "all")
    ours, theirs = (rows.filter(pl.col("method") == name).sort("seed") for name in _pair(inputs))
    if ours.is_empty() or theirs.is_empty():
        return None
    base = float(theirs["loss"].to_numpy().mean())
    if inputs.paired is not None:
        is_pair = (pl.col("method") == inputs.method) & (pl.col("baseline") == inputs.matched_baseline)
        found = inputs.paired.filter(is_pair & (pl.col("group_kind") == "all"))
        if len(found):
            value, low, high = (float(found[column][0]) for column in ("difference", "low", "high"))
            return Difference(value, low, high, value / base, "paired over documents")
    both = ours.join(theirs, on="seed", suffix="_theirs")
    if len(both) > 1:
        mean, half = mean_interval((both["loss"] - both["loss_theirs"]).to_numpy())
        return Difference(mean, mean - half, mean + half, mean / base, f"paired over {len(both)} seeds")
    value = float(ours["loss"].to_numpy().mean()) - base
    half = math.hypot(*(float((run["loss_high"] - run["loss_low"])[0]) / 2 for run in (ours, theirs)))
    return Difference(value, value - half, value + half, value / base, "one seed, unpaired")


def _pair(inputs: ReportInputs) -> tuple[str, str]:
    return inputs.method, inputs.matched_baseline


def _number_of_experts(inputs: ReportInputs) -> Statement:
    question = "How many experts were trained?" if inputs.grouping is not None else "How many clusters, and experts?"
    if inputs.corpus_only:
        question = "How many experts?"
    if inputs.choice is None:
        return Statement(question, "Not known", "This run has no choice of N.", "unknown")
    choice = inputs.choice
    n_experts = experts_of(inputs)
    if inputs.grouping is not None:
        return Statement(question, *_groups(inputs.grouping, choice))
    answer = f"{n_experts} clusters at the elbow, and as many experts"
    if choice.get("tail"):
        answer = f"Clusters at the elbow: {_with_tail(choice)}; as many experts"
    if n_experts == 1:
        answer = "One cluster at the elbow: one LoRA is enough"
    structured = choice.get("structure", True)
    detail = str(choice["reason"])
    detail += _how_sure(choice)
    level = "unknown" if choice.get("too_small") else "good" if structured else "neutral"
    return Statement(question, answer, detail, level)


def experts_of(inputs: ReportInputs) -> int | None:
    """Number of experts: the number of groups if gates are given, else the number of clusters."""
    if inputs.grouping is not None:
        return int(inputs.grouping["num_experts"])
    return None if inputs.choice is None else int(inputs.choice["num_clusters"])


def _with_tail(choice: Mapping[str, Any]) -> str:
    """The number of clusters in words, where the last one is the tail."""
    return f"{choice['num_clusters'] - 1}, and the tail of small tasks"


def _how_sure(choice: Mapping[str, Any]) -> str:
    """A sentence with the interval of the number of clusters, where it is known."""
    low, high = choice.get("interval", (0, 0))
    return f" About as well supported: {low} to {high}." if low != high else ""


def _groups(grouping: Mapping[str, Any], choice: Mapping[str, Any]) -> tuple[str, str, str]:
    n_experts, kind, found = grouping["num_experts"], grouping["group_kind"], grouping.get("held_out_accuracy")
    detail = str(grouping["reason"])
    if found is not None:
        detail += f" On the test documents: {100 * found:.1f}%."
    clusters = _with_tail(choice) if choice.get("tail") else choice["num_clusters"]
    detail += f" Clusters at the elbow of K-means: {clusters}.{_how_sure(choice)}"
    answer = f"{n_experts} experts, one for each {kind}" if n_experts > 1 else "One expert, which is a plain LoRA"
    return answer, detail, "neutral"


def _specialisation(inputs: ReportInputs) -> Statement:
    question = "Did the experts specialise?"
    if inputs.routing is None:
        return Statement(question, "Not measured", "This run has no routing analysis.", "unknown")
    if inputs.grouping is not None:
        return _own_experts(inputs)
    routing = inputs.routing
    answer = {"yes": "Yes", "weakly": "Weakly", "no": "No"}.get(routing.specialised, "Cannot tell")
    levels = {"yes": "good", "weakly": "neutral", "no": "bad"}
    return Statement(question, answer, routing.reason, levels.get(routing.specialised, "unknown"))


def _own_experts(inputs: ReportInputs) -> Statement:
    """If gates are given, they follow the groups by construction. So the losses of the experts are compared instead."""
    question = "Is each expert better on its own group than the other experts are?"
    found = None if inputs.cross_losses is None else cross_experts(inputs.cross_losses)
    if found is None:
        detail = (
            "Gates are given, so each document goes to the expert of its group by construction, which shows nothing."
        )
        return Statement(question, "Not measured", f"{detail} The run did not try other experts on it.", "unknown")
    n_groups = len(found.by_group)
    detail = (
        f"The own expert has the least held-out loss in {found.n_best} of {n_groups} groups. Its loss is "
        f"{found.difference:+.4f} nats per token against the mean of the others (mean over {found.n_documents} "
        f"documents, 95% interval {found.low:+.4f} to {found.high:+.4f}; negative is better)."
    )
    if found.high < 0:
        answer = "Yes" if found.n_best == n_groups else f"On average, and in {found.n_best} of {n_groups} groups"
        return Statement(question, answer, detail, "good" if found.n_best == n_groups else "neutral")
    if found.low > 0:
        return Statement(question, "No", detail, "bad")
    return Statement(question, "No difference shown", detail, "neutral")


def _comparison(inputs: ReportInputs) -> Statement:
    question = "Better than a LoRA of the same size?"
    difference = matched_difference(inputs)
    if difference is None:
        ours, theirs = _pair(inputs)
        return Statement(question, "Not measured", f"The evaluation does not have both {ours} and {theirs}.", "unknown")
    numbers = (
        f"Held-out loss {difference.value:+.4f} nats per token ({100 * difference.relative:+.2f}%), "
        f"95% interval {difference.low:+.4f} to {difference.high:+.4f}, {difference.how}."
    )
    if difference.high < 0:
        return Statement(question, f"Yes, by {-100 * difference.relative:.2f}%", numbers, "good")
    if difference.low > 0:
        return Statement(question, f"No, worse by {100 * difference.relative:.2f}%", numbers, "bad")
    return Statement(question, "No difference shown", numbers + " The interval includes zero.", "neutral")


def _observation(inputs: ReportInputs) -> Statement:
    question = "Do LoRAs of different data share A and differ in B? (the paper's Observation II)"
    if inputs.breakdown is None:
        return Statement(question, "Not measured", "This run has no parameter breakdown.", "unknown")
    observation = inputs.breakdown.observation
    level = {"supported": "good", "not supported": "bad"}.get(observation.verdict, "neutral")
    return Statement(question, f"{observation.verdict[0].upper()}{observation.verdict[1:]}", observation.reason, level)


def _serving_words(inputs: ReportInputs) -> str:
    if experts_of(inputs) == 1:
        return "As a plain LoRA"
    return "With live routing, or as one LoRA for each domain"
