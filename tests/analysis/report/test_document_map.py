"""The map of documents in a report."""

import dataclasses
import json
from pathlib import Path

import polars as pl

from analysis.report import ReportInputs, write_report
from tests.analysis.report.small_reports import EMPTY, EVIL, TEXTS, Elements


def test_the_map_has_the_text_as_it_was(elements: Elements):
    data = json.loads(elements.scripts[0])
    assert data["excerpt"][0] == " ".join(EVIL.split())
    assert data["sources"] == ["<i>dolly</i>", "gsm8k", "medquad"]
    assert len(data["x"]) == len(data["y"]) == len(TEXTS)
    assert 0 <= min(data["x"]) <= max(data["x"]) <= 65535


def test_a_cluster_that_the_sample_misses_keeps_its_number(inputs: ReportInputs, tmp_path: Path):
    assert inputs.cluster_map is not None
    some = inputs.cluster_map.filter(pl.col("cluster") != 0)
    elements = Elements()
    elements.feed(write_report(dataclasses.replace(EMPTY, cluster_map=some), tmp_path).html.read_text("utf-8"))
    data = json.loads(elements.scripts[0])
    assert [data["clusters"][i] for i in data["cluster"]] == [str(c) for c in some["cluster"]]
    assert data["clusters"] == [str(i) for i in range(len(data["clusters"]))]


def test_a_large_map_is_sampled_and_says_so(tmp_path: Path):
    n = 15_500
    points = pl.DataFrame(
        {"document_id": [f"{i:016x}" for i in range(n)], "x": range(n), "y": range(n),
         "cluster": [i % 3 for i in range(n)], "source": ["s"] * n, "excerpt": ["word " * 60] * n}
    )  # fmt: skip
    page = write_report(dataclasses.replace(EMPTY, cluster_map=points), tmp_path).html.read_text("utf-8")
    assert "a random sample of 15,000 of 15,500 documents" in page
    assert len(page) < 8_000_000
