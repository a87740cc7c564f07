"""Comparison of two runs: differences in verdicts, N, losses, sizes and provenance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from analysis.figures import training
from analysis.report.section import Section, Table, table
from analysis.report.summary import CHOICE, Summary, plain
from analysis.report.words import RULES, head

RUNS = ("first", "second")
DOCUMENTS, CLUSTERS = "artifact corpus_documents", "artifact cluster_labels"
"""Provenance entries. If they differ, the losses are of different documents, and a number means another cluster in each
run."""


@dataclass(frozen=True)
class Answers:
    """One question of the verdict, with the answers of both runs."""

    question: str
    answers: tuple[str, str]
    details: tuple[str, str]

    @property
    def differs(self) -> bool:
        """Whether the answers differ."""
        return self.answers[0] != self.answers[1]


@dataclass(frozen=True)
class Comparison:
    """The content of the page that compares two runs.

    Attributes:
        verdict: questions that at least one run answers.
        sections: tables and figures of the differences.
    """

    titles: tuple[str, str]
    commands: tuple[str, str]
    verdict: tuple[Answers, ...]
    sections: tuple[Section, ...]


def compare(one: Summary, other: Summary, more: Sequence[Section] = ()) -> Comparison:
    """Compare two summaries. Entries that an older summary lacks are left out.

    Args:
        one, other: summaries from `analysis.report.summary.read_summary`.
        more: further sections.

    Returns:
        The content of the page; two corpora without a training have no sections about one.
    """
    trained = bool(one.get("losses") or other.get("losses"))
    return Comparison(
        titles=(one["title"], other["title"]),
        commands=(one["command"], other["command"]),
        verdict=_verdict(one, other),
        sections=(
            *more,
            _experts(one, other),
            *((_losses(one, other), _parameters(one, other)) if trained else ()),
            _numbers(one, other),
            *((_alarms(one, other), _provenance(one, other)) if trained else ()),
        ),
    )


def _verdict(one: Summary, other: Summary) -> tuple[Answers, ...]:
    first, second = ({s["question"]: s for s in summary["verdict"]} for summary in (one, other))
    absent = {"answer": "Not asked", "detail": ""}
    found = []
    for question in dict.fromkeys([*first, *second]):
        a, b = first.get(question, absent), second.get(question, absent)
        found.append(Answers(question, (a["answer"], b["answer"]), (a["detail"], b["detail"])))
    return tuple(found)


def _experts(one: Summary, other: Summary) -> Section:
    title = "How many experts"
    choices = [summary.get("choice", {}) for summary in (one, other)]
    rows = [(head(name), *(_words(c.get(name)) for c in choices)) for name in CHOICE]
    rows = [row for row in rows if row[1:] != (None, None)]
    if not rows:
        return Section("experts", title, missing="Neither summary has a choice of N.")
    return Section("experts", title, tables=(Table("The choice", ("measure", *RUNS), tuple(rows), False),))


def _words(value: Any) -> Any:
    return " to ".join(map(str, value)) if isinstance(value, list | tuple) else RULES.get(value, value)


def _losses(one: Summary, other: Summary) -> Section:
    title = "Held-out losses"
    frames = [pl.DataFrame(summary.get("losses") or None, infer_schema_length=None) for summary in (one, other)]
    if any(frame.is_empty() for frame in frames):
        return Section("losses", title, missing="Losses with their intervals are not in both summaries.")
    lead = (
        "Difference: second minus first, negative is better. Intervals are of each run alone; two that overlap do not "
        "show that runs are equal, only that these numbers do not tell them apart."
    )
    notices: tuple[tuple[str, str], ...] = ()
    if one["provenance"].get(DOCUMENTS) != other["provenance"].get(DOCUMENTS):
        notices = (("warning", "The runs have different documents: their losses are not of the same texts."),)
    if one["provenance"].get(CLUSTERS) != other["provenance"].get(CLUSTERS):
        notices += (("note", "The runs have other clusters: their losses by cluster are not compared."),)
        frames = [frame.filter(pl.col("group_kind") != "cluster") for frame in frames]
    keys = ["group_kind", "group", "method", "seed"]
    both = frames[0].join(frames[1], on=keys, how="inner", suffix="_second", maintain_order="left")
    apart = (pl.col("loss_low") > pl.col("loss_high_second")) | (pl.col("loss_high") < pl.col("loss_low_second"))
    rows = both.select(
        "group", "method", "seed",
        pl.col("loss").alias("first"), _interval("").alias("interval of first"),
        pl.col("loss_second").alias("second"), _interval("_second").alias("interval of second"),
        (pl.col("loss_second") - pl.col("loss")).round(4).alias("difference"),
        pl.when(apart).then(pl.lit("apart")).otherwise(pl.lit("overlap")).alias("intervals"),
    )  # fmt: skip
    reported = one.get("method") or frames[0].filter(pl.col("method") != "base")["method"][0]
    pictures = [
        _picture(frames, kind, reported) for kind in ("all", "source") if any(kind in f["group_kind"] for f in frames)
    ]
    only = _only_in_one([set(frame["method"]) for frame in frames])
    return Section(
        "losses", title, f"{lead}{only}", tuple(pictures), (table(rows, "All groups", folded=False),), notices
    )


def _interval(suffix: str) -> pl.Expr:
    low, high = (pl.col(f"loss_{end}{suffix}").round(4).cast(pl.String) for end in ("low", "high"))
    return pl.concat_str(low, pl.lit(" to "), high)


def _only_in_one(methods: list[set[str]]) -> str:
    words = [
        f" Only in the {run}: {', '.join(sorted(mine - others))}."
        for run, mine, others in zip(RUNS, methods, reversed(methods), strict=True)
        if mine - others
    ]
    return "".join(words)


def _picture(frames: list[pl.DataFrame], kind: str, reported: str) -> Any:
    """A dot plot with one marker per run. Rows are all methods, or the groups of the reported method."""
    tables = []
    for run, frame in zip(RUNS, frames, strict=True):
        if kind == "all":
            rows = frame.filter(pl.col("group_kind") == "all").with_columns(group="method", group_kind=pl.lit("method"))
        else:
            rows = frame.filter((pl.col("group_kind") == kind) & (pl.col("method") == reported))
        tables.append(rows.with_columns(method=pl.lit(run)))
    picture = training.losses(pl.concat(tables), "method" if kind == "all" else kind)
    of = "every method over all documents" if kind == "all" else f"{reported}, by source"
    return replace(picture, caption=f"Held-out loss of {of}, in the first and in the second run. {picture.caption}")


def _parameters(one: Summary, other: Summary) -> Section:
    first, second = (
        {(row["method"], row["part"]): row["n_parameters"] for row in summary.get("parameters", ())}
        for summary in (one, other)
    )
    if not first and not second:
        return Section("parameters", "Parameters", missing="Neither summary has a table of parameters.")
    rows = tuple((*key, *_change(first.get(key), second.get(key))) for key in dict.fromkeys([*first, *second]))
    columns = ("method", "part", *RUNS, "change")
    return Section("parameters", "Parameters", tables=(Table("Trainable parameters", columns, rows, False),))


def _numbers(one: Summary, other: Summary) -> Section:
    rows, n_equal = _differences(one["numbers"], other["numbers"])
    tables = (Table("Numbers that differ", ("number", *RUNS, "change"), rows, False),) if rows else ()
    return Section("numbers", "Numbers", f"{n_equal} numbers are equal.", tables=tables)


def _alarms(one: Summary, other: Summary) -> Section:
    first, second = ({alarm["text"] for alarm in summary["alarms"]} for summary in (one, other))
    notices = [("new", text) for text in sorted(second - first)] + [("gone", text) for text in sorted(first - second)]
    lead = f"{len(first & second)} alarms are in both runs."
    return Section("alarms", "Alarms of the routers", lead, notices=tuple(notices))


def _provenance(one: Summary, other: Summary) -> Section:
    rows, n_equal = _differences(one["provenance"], other["provenance"])
    columns = ("what", *RUNS)
    tables = (Table("What differs", columns, tuple(row[:3] for row in rows), False),) if rows else ()
    return Section("provenance", "Provenance", f"{n_equal} entries are equal.", tables=tables)


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[tuple[tuple[Any, ...], ...], int]:
    """Rows (name, first, second, change) of the entries that differ, and the number of equal entries."""
    names = dict.fromkeys([*one, *other])
    rows = tuple((name, *_change(one.get(name), other.get(name))) for name in names if one.get(name) != other.get(name))
    return rows, len(names) - len(rows)


def _change(first: Any, second: Any) -> tuple[Any, Any, str]:
    known = isinstance(first, int | float) and isinstance(second, int | float)
    change = second - first if known else None
    sign = "+" if change is not None and change > 0 else ""
    return first, second, "" if change is None else f"{sign}{plain(change)}"
