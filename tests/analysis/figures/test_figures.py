import io
import itertools
import re
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import numpy as np
import polars as pl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from analysis.figures import Picture, clusters, png, routing, svg, thumbnail, training
from analysis.figures.style import ordered_groups
from analysis.report.sections import sections
from tests.analysis.synthetic_run import report_inputs

TEXTS = [f"question {i} about <b>numbers</b>" for i in range(120)]
SOURCES = [("gsm8k", "dolly", "medquad")[i % 3] for i in range(120)]


@pytest.fixture(scope="module")
def pictures() -> dict[str, Picture]:
    found = sections(report_inputs(TEXTS, SOURCES))
    return {picture.name: picture for section in found for picture in section.pictures}


def test_every_subject_has_its_figures(pictures: dict[str, Picture]):
    assert set(pictures) == {
        "elbow", "cluster_map", "composition", "training_curves", "losses_by_source", "similarity_by_relation",
        "similarity_by_layer", "submodules_tsne", "layers_a_tsne", "layers_b_tsne", "entropy_and_usage",
        "gates_by_cluster", "gate_association", "expert_similarity", "energy", "parameters",
    }  # fmt: skip


def test_pictures_have_words(pictures: dict[str, Picture]):
    for picture in pictures.values():
        assert picture.alt.endswith(".")
        assert picture.caption.endswith(".")


def test_images_are_the_same_bytes_and_thumbnails_are_small(pictures: dict[str, Picture]):
    for name in ("elbow", "submodules_tsne"):
        figure = pictures[name].figure
        assert png(figure) == png(figure)
    for picture in pictures.values():
        data = thumbnail(picture.figure)
        assert len(data) < 60_000
        assert Image.open(io.BytesIO(data)).width >= 120


def test_a_thumbnail_that_cannot_fit_says_so(pictures: dict[str, Picture]):
    with pytest.raises(ValueError, match="fits in 100 bytes"):
        thumbnail(pictures["elbow"].figure, limit=100)


def test_svg_is_well_formed_stable_and_follows_the_page(pictures: dict[str, Picture]):
    for picture in pictures.values():
        text = svg(picture)
        assert text == svg(picture)
        root = ElementTree.fromstring(text)
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        assert all(identifier.startswith(f"{picture.name}-") for identifier in ids)
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= set(ids)
        assert "currentColor" in text
        assert "#1b1f24" not in text


def test_text_does_not_overlap(pictures: dict[str, Picture]):
    """Tick labels of an axis keep apart: the fault that a crowded figure shows first."""
    for picture in pictures.values():
        renderer = FigureCanvasAgg(picture.figure).get_renderer()
        for axes in picture.figure.axes:
            if not axes.get_visible():
                continue
            for axis in (axes.xaxis, axes.yaxis):
                labels = [label for label in axis.get_ticklabels() if label.get_text() and not label.get_rotation()]
                boxes = [label.get_window_extent(renderer) for label in labels]
                for one, other in itertools.pairwise(boxes):
                    assert not one.overlaps(other), f"{picture.name}: {[label.get_text() for label in labels]}"


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    before = dict(mpl.rcParams)
    clusters.elbow(pl.DataFrame({"n_clusters": [1, 2, 3], "inertia": [9.0, 4.0, 3.0]}), {"num_clusters": 2})
    assert dict(mpl.rcParams) == before


def test_the_elbow_draws_what_the_table_says(pictures: dict[str, Picture]):
    sweep = pl.DataFrame({"n_clusters": [1, 2, 3], "inertia": [10.0, 4.0, 3.0]})
    picture = clusters.elbow(sweep, {"num_clusters": 2, "interval": (2, 3)})
    np.testing.assert_allclose(picture.figure.axes[0].lines[0].get_ydata(), [100, 40, 30])
    assert "60% of the squared distance" in picture.alt


def test_a_gate_stands_in_its_own_cell():
    gates = pl.DataFrame(
        [(layer, module, e, "cluster", g, layer + 0.1 * e + (0.01 if g == "10" else 0) + (0.5 if module == "v" else 0))
         for layer in (0, 1) for module in ("q", "v") for e in (0, 1) for g in ("9", "10")],
        schema=["layer", "module", "expert", "group_kind", "group", "gate"], orient="row",
    )  # fmt: skip
    figure = routing.gates_by_layer(gates, "cluster").figure
    titles = [axes.get_title(loc="left") for axes in figure.axes[:2]]
    assert titles == ["cluster 9", "cluster 10"]
    np.testing.assert_allclose(
        figure.axes[1].images[0].get_array(), [[0.01, 0.11], [0.51, 0.61], [1.01, 1.11], [1.51, 1.61]]
    )


def test_groups_are_ordered_as_people_count():
    assert ordered_groups(["10", "law", "2", "all", "code", "2"]) == ["all", "2", "10", "code", "law"]


def test_many_methods_and_groups_still_fit():
    rows = [
        (f"method {m}", s, kind, group, 1.0 + m / 10, 0.9, 1.2)
        for m in range(10)
        for s in (0, 1)
        for kind, group in [("all", "all"), *(("source", f"source {g}") for g in range(12))]
    ]
    columns = ["method", "seed", "group_kind", "group", "loss", "loss_low", "loss_high"]
    picture = training.losses(pl.DataFrame(rows, schema=columns, orient="row"), "source")
    assert len(picture.figure.legends[0].get_texts()) == 10
    assert picture.figure.get_figheight() <= 9


def test_numbers_on_a_map_do_not_hide_each_other():
    places = np.array([[0.0, 0.0], [0.0, 0.0], [0.1, 0.0], [5.0, 5.0]])
    moved = clusters.apart(places, 1.0)
    between = np.linalg.norm(moved[:, None] - moved, axis=2) + np.eye(4) * 9
    assert between.min() > 0.99
    assert np.allclose(moved[3], places[3], atol=0.01)


@pytest.mark.parametrize("is_narrow", [False, True])
@pytest.mark.parametrize("n", [3, 12, 30])
def test_numbers_in_a_heat_map_and_names_below_it_do_not_touch(n: int, is_narrow: bool):
    rows = [(i, f"General Q&A (Dolly) v2 / {j}", 100 if i == j else 1) for i in range(n) for j in range(n)]
    picture = clusters.composition(pl.DataFrame(rows, schema=["cluster", "source", "n_documents"], orient="row"))
    assert picture.narrow is not None
    figure = picture.narrow() if is_narrow else picture.figure
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert bool(axes.texts) == (n < 30)
    for row in range(n if axes.texts else 0):
        boxes = [text.get_window_extent() for text in axes.texts[n * row : n * (row + 1)]]
        assert all(second.x0 > first.x1 for first, second in itertools.pairwise(boxes))
    below = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
    assert len(below) >= min(n, 12)
    if axes.get_xticklabels()[0].get_rotation() == 90:
        assert all(second.x0 > first.x1 for first, second in itertools.pairwise(below))


def test_a_number_stands_off_its_bar():
    table = pl.DataFrame({"method": ["a", "b"], "part": ["A", "A"], "n_parameters": [10, 20]})
    figure = training.parameters(table).figure
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for bar, number in zip(axes.patches, axes.texts, strict=True):
        assert number.get_window_extent().x0 > bar.get_window_extent().x1 + 1
