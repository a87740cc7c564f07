"""Summaries of a report: `summary.json`, and Markdown for CI."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from analysis.json_files import NUMBER, load_object
from analysis.report.budget import spent
from analysis.report.inputs import ReportInputs
from analysis.report.verdict import experts_of, matched_difference, verdict

Summary = dict[str, Any]
CHOICE = ("num_clusters", "interval", "rule", "sharpness", "stability", "runner_up", "probability_of_one", "structure")
NEEDED = {
    "title": str,
    "command": str,
    "verdict": [dict.fromkeys(("question", "answer", "detail"), str)],
    "numbers": {str: object},
    "alarms": [{"level": str, "text": str}],
    "provenance": {str: object},
}
OF_NEWER = {
    "choice": {str: object},
    "losses": [
        {"method": str, "seed": int, "group_kind": str, "group": str}
        | dict.fromkeys(("loss", "loss_low", "loss_high"), NUMBER)
    ],
    "parameters": [{"method": str, "part": str, "n_parameters": int}],
}
"""Fields that a summary of an older version lacks."""
LOSS_COLUMNS = ("method", "seed", "group_kind", "group", "loss", "loss_low", "loss_high")


def summarise(inputs: ReportInputs) -> Summary:
    """The verdict, its numbers by name, and the provenance, as a JSON-serialisable dictionary."""
    return {
        "title": inputs.title,
        "command": inputs.command,
        "method": inputs.method,
        "spent": {**vars(spent(inputs)), "base_model": inputs.base_model, "documents": inputs.n_training_documents},
        "next_steps": [vars(step) for step in inputs.next_steps],
        "verdict": [vars(statement) for statement in verdict(inputs)],
        "numbers": _numbers(inputs),
        "choice": {name: inputs.choice[name] for name in CHOICE if name in inputs.choice} if inputs.choice else {},
        "losses": inputs.evaluation.select(LOSS_COLUMNS).to_dicts() if inputs.evaluation is not None else [],
        "parameters": inputs.parameters.to_dicts() if inputs.parameters is not None else [],
        "alarms": [vars(alarm) for alarm in inputs.routing.alarms] if inputs.routing else [],
        "provenance": {name: str(value) for name, value in inputs.provenance.items()},
    }


def summary_markdown(summary: Mapping[str, Any]) -> str:
    """The summary as Markdown: the verdict, the alarms, the numbers, the command."""
    lines = [f"# {_escape(summary['title'])}", "", "| question | answer | evidence |", "|---|---|---|"]
    lines += [
        f"| {_escape(s['question'])} | {_escape(s['answer'])} | {_escape(s['detail'])} |" for s in summary["verdict"]
    ]
    if summary["alarms"]:
        lines += ["", "**Alarms**", ""]
        lines += [f"- {alarm['level']}: {_escape(alarm['text'])}" for alarm in summary["alarms"]]
    lines += ["", "| number | value |", "|---|--:|"]
    lines += [f"| {_escape(name)} | {plain(value)} |" for name, value in summary["numbers"].items()]
    for step in summary.get("next_steps", ()):
        lines += ["", f"{_escape(step['title'])}:", "", "```", step["command"], "```"]
    return "\n".join([*lines, "", "To reproduce:", "", "```", summary["command"], "```", ""])


def plain(value: Any) -> str:
    """Format a value for readers: four significant digits, thousands separators, and empty for unknown values."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.4g}"
    return str(value)


def _numbers(inputs: ReportInputs) -> dict[str, float | int]:
    numbers: dict[str, Any] = {}
    if inputs.choice is not None:
        numbers["clusters at the elbow"] = int(inputs.choice.get("value", inputs.choice["num_clusters"]))
        numbers["experts" if inputs.corpus_only else "experts trained"] = experts_of(inputs)
    if inputs.data_card is not None:
        numbers["n_documents"] = inputs.data_card["n_kept"]
    if inputs.evaluation is not None:
        rows = inputs.evaluation.filter(pl.col("group_kind") == "all")
        means = rows.group_by("method", maintain_order=True).agg(pl.col("loss").mean())
        numbers |= {f"loss of {method}": loss for method, loss in means.iter_rows()}
    if (difference := matched_difference(inputs)) is not None:
        numbers |= {
            "loss difference to the matched baseline": difference.value,
            "lower end": difference.low,
            "upper end": difference.high,
        }
    if inputs.parameters is not None:
        totals = inputs.parameters.group_by("method", maintain_order=True).agg(pl.col("n_parameters").sum())
        numbers |= {f"parameters of {method}": n for method, n in totals.iter_rows()}
    if inputs.routing is not None:
        numbers["gate entropy"] = float(inputs.routing.entropy["entropy"].to_numpy().mean())
        overall = inputs.routing.association.filter(pl.col("layer").is_null())
        numbers |= {
            f"gate variance explained by {r['group_kind']}": r["variance_explained"] for r in overall.to_dicts()
        }
    if inputs.breakdown is not None:
        numbers |= {f"breakdown {name}": value for name, value in inputs.breakdown.observation.numbers.items()}
    return numbers


def read_summary(path: Path) -> Summary:
    """Read the summary of a report.

    Args:
        path: folder of the report, or its `summary.json`.

    Raises:
        FileNotFoundError: there is no summary.
        ValueError: it is not one that `write_report` made; the message names the field.
    """
    file = path / "summary.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"expected a report's folder or its summary.json, got {path}; write_report makes both")
    return load_object(file, NEEDED, OF_NEWER, advice="Write the report again")


def _escape(text: str) -> str:
    """Escape text so that it stays within its table cell and starts no markup."""
    flat = " ".join(str(text).split())
    return flat.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
