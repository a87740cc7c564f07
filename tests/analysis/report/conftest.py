"""A report of a synthetic run, written once a module."""

from pathlib import Path

import pytest

from analysis.report import ReportInputs, write_report
from tests.analysis.report.small_reports import SOURCES, TEXTS, Elements
from tests.analysis.synthetic_run import report_inputs


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return report_inputs(TEXTS, SOURCES)


@pytest.fixture(scope="module")
def folder(inputs: ReportInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(inputs, folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def elements(page: str) -> Elements:
    parsed = Elements()
    parsed.feed(page)
    return parsed
