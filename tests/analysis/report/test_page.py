"""The page as a whole: safe, accessible, whole."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

from analysis.report import NextStep, ReportInputs, write_report
from analysis.report.verdict import verdict
from tests.analysis.report.small_reports import EMPTY, Elements


def test_all_files_are_written_and_no_half_ones(inputs: ReportInputs, folder: Path):
    assert sorted(path.name for path in folder.iterdir()) == ["figures", "report.html", "summary.json", "summary.md"]
    assert len(list((folder / "figures").glob("*.png"))) == 17
    assert not list(folder.rglob(".*"))


def test_the_same_inputs_give_the_same_bytes(inputs: ReportInputs, folder: Path, tmp_path: Path):
    again = write_report(inputs, tmp_path)
    assert again.html.read_bytes() == (folder / "report.html").read_bytes()
    assert again.figures["elbow"].read_bytes() == (folder / "figures" / "elbow.png").read_bytes()


def test_text_of_documents_cannot_become_markup(elements: Elements, page: str):
    tags = [tag for tag, _ in elements.tags]
    assert tags.count("script") == 2  # the map's data and the one script
    assert not {"img", "b", "i", "iframe", "object"} & set(tags)
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    assert "&lt;/script&gt;&lt;script&gt;alert" in page


def test_nothing_is_loaded_and_only_our_script_may_run(elements: Elements, page: str):
    policy = next(a["content"] for tag, a in elements.tags if tag == "meta" and "content" in a and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    targets = [a.get(name) or "" for _, a in elements.tags for name in ("src", "href", "xlink:href", "action")]
    assert not [target for target in targets if target and not target.startswith(("#", "data:"))]
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_figures_have_alternative_text_and_every_id_is_unique(elements: Elements):
    figures = [a for tag, a in elements.tags if tag == "div" and a.get("role") == "img"]
    assert len(figures) == 16  # the map of documents is interactive instead
    assert all(len(a["aria-label"] or "") > 5 for a in figures)
    ids = [a["id"] for _, a in elements.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_headings_do_not_skip_levels(elements: Elements):
    levels = [int(tag[1]) for tag, _ in elements.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_an_empty_run_still_has_a_report(tmp_path: Path):
    files = write_report(EMPTY, tmp_path)
    page = files.html.read_text("utf-8")
    assert page.count('class="missing"') == 10
    assert files.figures == {}
    assert {s.level for s in verdict(EMPTY)} == {"unknown", "neutral"}


def test_the_head_of_the_page_says_what_was_run(inputs: ReportInputs, tmp_path: Path):
    step = NextStep("Serve it", "hydralora serve 'a folder' --backend http://localhost:8000", "Now.")
    few_figures = dataclasses.replace(inputs, breakdown=None, routing=None)
    named = dataclasses.replace(
        few_figures, base_model="a <model>", n_training_documents=1234, next_steps=[step], configuration="ops: {a: <b>}"
    )
    page = write_report(named, tmp_path).html.read_text("utf-8")
    head = page[: page.index('<section id="corpus"')]
    for words in ("a &lt;model&gt;", "1,234 documents", "<dd>1,000</dd>", "2,048,000", "13 min", "Serve it"):
        assert words in head
    assert "hydralora serve &#39;a folder&#39; --backend http://localhost:8000" in re.sub("</?span>", "", head)
    assert "ops: {a: &lt;b&gt;}" in page
    summary = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    assert summary["spent"]["base_model"] == "a <model>"
    assert summary["next_steps"][0]["command"].startswith("hydralora serve")


def test_every_figure_has_a_form_for_a_phone(page: str):
    assert page.count('<svg class="wide"') == page.count('<svg class="narrow"') == 16


def test_heads_of_tables_are_words_and_rules_too(page: str):
    heads = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', page)
    assert not [head for head in heads if head.startswith("n ") or "_" in head or head in ("kl", "found", "cka")]
    assert "l_method" not in page
