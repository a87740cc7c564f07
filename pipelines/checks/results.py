"""Checks of the report's fields."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from pipelines.checks.configured_run import ConfiguredRun
from pipelines.checks.problem import AnyProblem, Problem

_ADDRESS = re.compile(r"""https?://[^\s"'<>/]+(/[^\s"'<>]*)?""")


def problems(run: ConfiguredRun) -> Iterator[AnyProblem]:
    """Problems of the report, whose fields go into a page that others open."""
    report = run.configs.get("report")
    if report is None:
        return
    if not report.title.strip():
        yield Problem("ops.report.config.title", "a title", report.title)
    if report.url is not None and not (_ADDRESS.fullmatch(report.url) and _has_port(report.url)):
        advice = "It is where a web server serves the store."
        yield Problem("ops.report.config.url", "an address with http:// or https://", report.url, advice)


def _has_port(url: str) -> bool:
    """Whether host and port of an address can be read."""
    try:
        urlsplit(url).port  # noqa: B018
    except ValueError:
        return False
    return True
