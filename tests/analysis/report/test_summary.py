"""The summaries for machines and for Markdown."""

import dataclasses

import pytest

from analysis.report import ReportInputs
from analysis.report.summary import plain, summarise, summary_markdown


def test_markdown_escapes_and_stays_in_its_cells(inputs: ReportInputs):
    text = summary_markdown(summarise(dataclasses.replace(inputs, title="a | b <script>")))
    assert "# a \\| b &lt;script>" in text
    assert {line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("| ")} == {3, 4}
    assert inputs.command in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (54321.6, "54,322"),
    ],
)
def test_numbers_are_readable(value: object, text: str):
    assert plain(value) == text
