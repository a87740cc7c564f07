"""The report as a reader sees it: drawn, quiet, usable by mouse and keyboard, at desktop and phone width."""

import dataclasses
import io
import re
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from analysis.report import NextStep, write_comparison, write_report
from tests.analysis.synthetic_run import report_inputs

from .chromium import Page, chromium_page

pytestmark = pytest.mark.slow

EVIL = "<script>document.title = 'stolen'</script><img src=https://example.org/x onerror=\"document.title='stolen'\">"
N_DOCUMENTS = 15_000
DRAWN = """[...document.querySelectorAll('figure svg')].map(svg => {
  const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
  const sizes = [...svg.querySelectorAll('text')].map(text => parseFloat(getComputedStyle(text).fontSize) * scale);
  return [svg.getAttribute('class'), box.width, box.height, svg.parentElement.clientWidth, Math.min(...sizes)];
}).filter(found => found[2] > 0)"""
"""Form, width, height, room and least height of text, in pixels, of every figure that is shown."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, shared_corpora: Path) -> Path:
    names = ("dolly15k", "gsm8k", "medquad", "mbxp")
    frames = [pl.read_parquet(shared_corpora / f"{name}_train.parquet") for name in names]
    documents = pl.concat([f.head(N_DOCUMENTS // 4) for f in frames] + [frames[0].tail(N_DOCUMENTS)])
    documents = documents.head(N_DOCUMENTS)
    texts = documents["instruction"].to_list()
    texts[0] = EVIL
    return write_report(report_inputs(texts, documents["corpus"].to_list()), tmp_path_factory.mktemp("report")).html


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium_page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(params=[(1280, False), (1280, True), (390, False), (390, True)], ids=lambda p: f"{p[0]}-dark{p[1]}")
def opened(request: pytest.FixtureRequest, page: Page, report: Path) -> Page:
    width, dark = request.param
    page.complaints.clear()
    page.requests.clear()
    page.open(report, width=width, dark=dark)
    return page


def test_everything_is_drawn_quietly_and_nothing_leaves_the_page(opened: Page, report: Path):
    form = "narrow" if opened.evaluate("innerWidth") < 600 else "wide"
    shown = opened.evaluate(DRAWN)
    assert {name for name, *_ in shown} == {form}
    assert len(shown) == 16
    assert all(height > 100 and width <= room + 1 for _, width, height, room, _ in shown)  # none is cut
    assert min(size for *_, size in shown) >= 11
    assert opened.evaluate("document.documentElement.scrollWidth") <= opened.evaluate("innerWidth")
    assert opened.evaluate("document.title") == "A made-up run · HydraLoRA report"
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [report.resolve().as_uri()]


def test_the_map_has_many_colours_on_the_page_s_paper(opened: Page):
    opened.evaluate("document.getElementById('map-canvas').scrollIntoView({block: 'center', behavior: 'instant'})")
    opened.settle()
    image = Image.open(io.BytesIO(opened.screenshot())).convert("RGB")
    colors = image.getcolors(maxcolors=10**6)
    assert colors is not None
    assert len(colors) > 500
    paper = max(colors)[1]
    is_dark = opened.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (sum(paper) < 128) == is_dark  # type: ignore[call-overload]


def test_a_desk_s_first_screen_has_the_verdict_what_was_spent_and_the_command_to_type(page: Page, tmp_path: Path):
    texts = ["What is two plus two?", "Name a city.", "Add one.", "Write a loop."] * 30
    sources = ["General questions (final) v2", "math", "NIH - MedQuAD, santé", "code.all_languages"] * 30
    folder = "outputs/hydralora/{}/0123456789abcdef0123456789abcdef"
    steps = [
        NextStep(
            "Spend enough", f"hydralora run {folder.format('report')}/compare.yaml --job compare", "With 3 seeds."
        ),
        NextStep("Serve", f"hydralora serve {folder.format('domain_exports')} --backend http://localhost:8000", "Now."),
    ]
    inputs = dataclasses.replace(
        report_inputs(texts, sources), base_model="owner/a-model-of-some-size-Instruct", n_training_documents=90,
        title=", ".join(sources[:4]), next_steps=steps,
    )  # fmt: skip
    page.open(write_report(inputs, tmp_path).html, width=1280, height=900)
    bottom = "Math.max(...[...document.querySelectorAll('{}')].map(e => e.getBoundingClientRect().bottom))"
    for part in (".facts", ".verdict:first-of-type .statement", ".next pre"):
        assert 0 < page.evaluate(bottom.format(part)) <= 900
    assert page.evaluate("document.querySelectorAll('.verdict:first-of-type .statement').length") == 3


def test_it_opens_within_two_seconds(page: Page, report: Path):
    page.open(report, width=1280)
    # Time until the page is loaded, its script included; a wall time, so the least of three.
    times = []
    for _ in range(3):
        page.reload()
        times.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
    assert 0 < min(times) < 2000
    assert report.stat().st_size < 8_000_000


def test_filters_hover_zoom_and_keys(page: Page, report: Path):
    page.open(report, width=1280)
    count = "document.getElementById('map-count').textContent"
    tip = "(() => { const tip = document.getElementById('map-tip'); return tip.hidden ? null : tip.textContent })()"
    assert page.evaluate(count) == "15,000 of 15,000 points shown"

    page.evaluate("document.querySelectorAll('#map-source input')[1].click()")
    assert page.evaluate(count) == "11,250 of 15,000 points shown"
    page.evaluate("document.querySelector('#map-source button').click()")
    assert page.evaluate(count) == "15,000 of 15,000 points shown"
    page.evaluate(
        "(() => { const find = document.getElementById('map-find'); find.value = 'document.title'; "
        "find.dispatchEvent(new Event('input')); })()"
    )
    assert page.evaluate(count) == "1 of 15,000 points shown"

    page.evaluate("document.getElementById('map-canvas').scrollIntoView({block: 'center', behavior: 'instant'})")
    page.evaluate("document.getElementById('map-canvas').focus({preventScroll: true})")
    page.key("ArrowRight")
    assert page.evaluate(tip).endswith(EVIL)  # as text
    assert page.evaluate("document.querySelectorAll('#map-tip img, #map-tip script').length") == 0
    page.key("Escape")
    assert page.evaluate(tip) is None

    page.evaluate("document.getElementById('map-find').value = ''; document.querySelector('#map-source input').click()")
    box = page.evaluate("(() => { const b = document.getElementById('map-canvas').getBoundingClientRect(); "
                        "return [b.x, b.y, b.width, b.height]; })()")  # fmt: skip
    found = False
    for step in range(1, 60):
        page.mouse("mouseMoved", box[0] + box[2] * step / 60, box[1] + box[3] / 2)
        found = found or page.evaluate(tip) is not None
    assert found
    before = page.screenshot()
    page.key("+")
    assert page.screenshot() != before
    assert page.complaints == []


def test_documents_in_a_line_are_saved_as_jsonl_without_a_request(page: Page, report: Path, tmp_path: Path):
    page.requests.clear()
    page.open(report, width=1280)
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.evaluate("document.getElementById('map-canvas').scrollIntoView({block: 'center', behavior: 'instant'})")
    box = page.evaluate("(() => { const b = document.getElementById('map-canvas').getBoundingClientRect(); "
                        "return [b.x, b.y, b.width, b.height]; })()")  # fmt: skip
    page.evaluate("document.getElementById('map-lasso').click()")
    corners = [(0.5, 0.02), (0.98, 0.02), (0.98, 0.98), (0.5, 0.98)]
    points = [(box[0] + box[2] * x, box[1] + box[3] * y) for x, y in corners]
    page.mouse("mousePressed", *points[0])
    for point in points[1:]:
        page.mouse("mouseMoved", *point)
    page.mouse("mouseReleased", *points[-1])
    words = page.evaluate("document.getElementById('map-count').textContent")
    found = re.search(r"([0-9,]+) selected", words)
    assert found is not None
    n_chosen = int(found[1].replace(",", ""))
    assert 0 < n_chosen < N_DOCUMENTS
    page.evaluate("document.getElementById('map-save').click()")
    file = tmp_path / "documents.jsonl"
    for _ in range(100):
        if file.exists() and len(file.read_text("utf-8").splitlines()) == n_chosen:
            break
        time.sleep(0.1)
    rows = pl.read_ndjson(file)
    assert rows.columns == ["document_id", "cluster", "source", "excerpt"]
    assert len(rows) == n_chosen == rows["document_id"].n_unique()
    assert [url for url in page.requests if not url.startswith(("data:", "blob:"))] == [report.resolve().as_uri()]
    assert page.complaints == []


@pytest.fixture(scope="module")
def compared(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_comparison(report.parent, report.parent, tmp_path_factory.mktemp("compared") / "comparison.html")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_figures_of_two_reports_are_shown_at_a_size_that_can_be_read(
    page: Page, compared: Path, width: int, dark: bool
):
    page.complaints.clear()
    page.requests.clear()
    page.open(compared, width=width, dark=dark)
    sizes = page.evaluate("[...document.querySelectorAll('.pair img')].map(i => [i.naturalWidth, i.width])")
    assert len(sizes) == 10
    assert all(natural > 300 and shown >= 660 for natural, shown in sizes)  # letters of 11 pixels; a phone scrolls
    assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("innerWidth")
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [compared.resolve().as_uri()]


def test_paper_shows_what_a_mouse_would(page: Page, report: Path):
    page.open(report, width=1280, dark=True)
    page.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    shown = "[...document.querySelectorAll('{}')].map(e => getComputedStyle(e).display != 'none').every(x => x)"
    assert page.evaluate(shown.format("#map-cluster .swatch"))  # the map's legend
    assert not page.evaluate(shown.format("nav"))
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.call("Emulation.setEmulatedMedia", media="")
