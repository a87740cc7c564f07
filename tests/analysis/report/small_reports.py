"""Inputs of reports, and a reader of their pages."""

import dataclasses
import html.parser

import polars as pl

from analysis.report import ReportInputs
from analysis.report.budget import LEAST_SEEDS

EVIL = '</script><script>alert("x")</script> <img src=x onerror=alert(1)> & <b>bold</b>\u2028'
TEXTS = [EVIL if i % 10 == 0 else f"How many apples are {i} and {i + 1}?" for i in range(60)]
SOURCES = [("gsm8k", "<i>dolly</i>", "medquad")[i % 3] for i in range(60)]
EMPTY = ReportInputs(title="nothing", command="make run")


class Elements(html.parser.HTMLParser):
    """Start tags with their attributes, and the text of script elements."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)


def with_seeds(inputs: ReportInputs, n_seeds: int = LEAST_SEEDS) -> ReportInputs:
    """The same run with so many seeds: enough for a verdict."""
    assert inputs.evaluation is not None
    seeds = [inputs.evaluation.with_columns(seed=pl.lit(seed, pl.Int64)) for seed in range(n_seeds)]
    return dataclasses.replace(inputs, evaluation=pl.concat(seeds))


CROSS = [  # document, group, expert, loss, tokens
    *(("1", "law", "law", 10.0, 10), ("1", "law", "code", 12.0, 10)),
    *(("2", "law", "law", 5.0, 10), ("2", "law", "code", 6.0, 10)),
    *(("3", "code", "law", 30.0, 20), ("3", "code", "code", 20.0, 20)),
]


def grouped_with(inputs: ReportInputs, rows: list[tuple[str, str, str, float, int]]) -> ReportInputs:
    columns = ("document_id", "group", "expert", "loss", "n_tokens")
    grouping = {"num_experts": 2, "group_kind": "source", "groups": ["law", "code"], "reason": "Told."}
    losses = pl.DataFrame(rows, schema=columns, orient="row") if rows else None
    return with_seeds(dataclasses.replace(inputs, grouping=grouping, cross_losses=losses))


def evaluation(rows: list[tuple[str, int, float]]) -> pl.DataFrame:
    data = [(method, seed, "all", "all", loss, loss - 0.03, loss + 0.04) for method, seed, loss in rows]
    columns = ["method", "seed", "group_kind", "group", "loss", "loss_low", "loss_high"]
    return pl.DataFrame(data, schema=columns, orient="row")
