"""The report of a run: one self-contained HTML file, figures as PNG, a Markdown summary and a JSON summary.

files = write_report(ReportInputs(title="six corpora", command="make run", sweep=sweep, choice=choice), folder)
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.atomic_files import save_bytes
from analysis.figures import png
from analysis.report.comparison import compare
from analysis.report.document_map import MAP_POINTS
from analysis.report.inputs import MoreTable, NextStep, ReportInputs, TokenGates
from analysis.report.page import render, render_comparison
from analysis.report.section import Section
from analysis.report.sections import first_picture, sections
from analysis.report.summary import read_summary, summarise, summary_markdown

__all__ = [
    "MoreTable",
    "NextStep",
    "ReportFiles",
    "ReportInputs",
    "TokenGates",
    "write_comparison",
    "write_report",
]

SIDE_BY_SIDE = ("elbow", "composition", "training_curves", "similarity_by_relation", "gates_by_cluster")
"""Figures of both runs that a comparison shows side by side."""


@dataclass(frozen=True)
class ReportFiles:
    """The results of `write_report`.

    Attributes:
        markdown: path of the Markdown summary, for CI.
        summary: path of the JSON summary, which `write_comparison` reads.
        figures: figure name -> path of the PNG file.
    """

    html: Path
    markdown: Path
    summary: Path
    figures: dict[str, Path]


def write_report(inputs: ReportInputs, folder: Path) -> ReportFiles:
    """Write the report of a run into a folder.

    A map of more than 15,000 points is sampled, which the report states. The same inputs give the same bytes.
    """
    inputs = _sampled(inputs)
    found = sections(inputs)
    summary = summarise(inputs)
    overview = first_picture(inputs)
    pictures = [picture for section in found for picture in section.pictures] + ([overview] if overview else [])
    return ReportFiles(
        html=save_bytes(folder / "report.html", render(inputs, found, overview).encode()),
        markdown=save_bytes(folder / "summary.md", summary_markdown(summary).encode()),
        summary=save_bytes(folder / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False).encode()),
        figures={p.name: save_bytes(folder / "figures" / f"{p.name}.png", png(p.figure)) for p in pictures},
    )


def write_comparison(first: Path, second: Path, path: Path, more: Sequence[Section] = ()) -> Path:
    """Write an HTML page that compares two reports: verdicts, N, losses, sizes, provenance and some figures.

    Args:
        first, second: report folders, or their `summary.json` files (then without figures).
        more: further sections, which come after the verdict.

    Raises:
        FileNotFoundError: a folder has no summary.
    """
    found = compare(read_summary(first), read_summary(second), more)
    images = []
    for name in SIDE_BY_SIDE:
        files = [folder / "figures" / f"{name}.png" for folder in (first, second)]
        if all(file.is_file() for file in files):
            images.append((name.replace("_", " ").capitalize(), files[0].read_bytes(), files[1].read_bytes()))
    return save_bytes(path, render_comparison(found, images).encode())


def _sampled(inputs: ReportInputs) -> ReportInputs:
    points = inputs.cluster_map
    if points is None or len(points) <= MAP_POINTS:
        return inputs
    total = inputs.n_documents or len(points)
    sample = points.sample(MAP_POINTS, seed=0)
    return dataclasses.replace(inputs, cluster_map=sample, n_documents=total)
