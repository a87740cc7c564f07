"""Two runs side by side."""

import json
import re
from pathlib import Path

import pytest

from analysis.report import ReportInputs, write_comparison
from analysis.report.summary import summarise
from tests.analysis.report.small_reports import EVIL


def other_run(folder: Path, inputs: ReportInputs) -> Path:
    """A second run with another N, higher losses, other documents and an alarm."""
    summary = summarise(inputs)
    summary |= {"title": EVIL, "alarms": [{"level": "warning", "text": "layer 3 collapsed"}]}
    summary["choice"]["num_clusters"] = 5
    summary["verdict"][0]["answer"] = "N = 5"
    summary["provenance"]["artifact corpus_documents"] = "0123"
    for row in summary["losses"]:
        for name in ("loss", "loss_low", "loss_high"):
            row[name] += 0.1
    summary["parameters"][0]["n_parameters"] += 1000
    (folder / "summary.json").write_text(json.dumps(summary), "utf-8")
    return folder


def test_a_folder_without_a_summary_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="write_report makes both"):
        write_comparison(folder, tmp_path / "absent", tmp_path / "page.html")


def test_a_page_of_two_runs_shows_what_differs(inputs: ReportInputs, folder: Path, tmp_path: Path):
    page = write_comparison(folder, other_run(tmp_path, inputs), tmp_path / "page.html").read_text("utf-8")
    words = re.sub(r"<svg.*?</svg>|<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    words = " ".join(words.split())
    assert "first 4 clusters at the elbow" in words
    assert "second N = 5" in words
    assert "their losses are not of the same texts" in words
    assert "all hydralora 0 1.42 1.39 to 1.45 1.52 1.49 to 1.55 0.1 apart" in words
    assert "hydralora A 460,800 461,800 +1,000" in words
    assert "lora_matched A 921,600 921,600" in words
    assert "new layer 3 collapsed" in words
    assert "artifact corpus_documents – 0123" in words
    assert "3 entries are equal." in words
    assert page.count("<svg") == 2 * 2  # for a desk and for a phone
    assert EVIL not in page
    assert "&lt;script&gt;alert" in page


def test_two_equal_runs_say_so(folder: Path, tmp_path: Path):
    page = write_comparison(folder, folder, tmp_path / "page.html").read_text("utf-8")
    assert "A made-up run, twice" in page
    assert 'class="statement bad"' not in page
    assert "Numbers that differ" not in page
    assert page.count("data:image/png;base64") == 2 * 5  # figures of both, where the folders have them


def test_a_summary_of_an_older_report_is_compared_too(folder: Path, tmp_path: Path):
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    for name in ("choice", "losses", "parameters"):
        del summary[name]
    (tmp_path / "summary.json").write_text(json.dumps(summary), "utf-8")
    page = write_comparison(tmp_path, folder, tmp_path / "page.html").read_text("utf-8")
    assert "Losses with their intervals are not in both summaries." in page
