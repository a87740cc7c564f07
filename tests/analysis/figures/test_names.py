"""Names of sources and tasks come from files of strangers: no figure fails on one, and none is read as markup."""

import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import polars as pl
import pytest

from analysis.figures import Picture, png, svg
from analysis.figures.breakdown import layer_maps, submodule_map
from analysis.figures.clusters import composition
from analysis.figures.comparison import compared_methods
from analysis.figures.paper import heterogeneity_gaps
from analysis.figures.routing import LONGEST_TITLE, association, gates_by_layer
from analysis.figures.style import LONGEST_NAME, plain_text, short_names
from analysis.figures.training import curves, energy, losses, parameters
from analysis.report.sections import sections
from tests.analysis.synthetic_run import report_inputs

NAMES = {
    "formula": ("$\\frac{$", "$\\frac{$"),
    "two dollars": ("a $x^2$ b", "a $x^2$ b"),
    "tag": ("<script>alert(1)</script>", "<script>alert(1)</script>"),
    "end of the drawing": ("]]></svg><g id=\"x\">", "]]></svg><g id=\"x\">"),
    "turned around": ("gsm\u202e8k", "gsm\ufffd8k"),
    "two lines": ("law\n  and code", "law and code"),
    "control": ("a\x00b\x1b[31m", "a\ufffdb\ufffd[31m"),
    "another script": ("数学", "数学"),
    "underscore": ("_hidden", " _hidden"),
    "colour": ("#0072b2 and url(#c", "#0072b2 and url(#c"),
    "long": ("x" * 150 + "y" * 150, "x" * 15 + "…" + "y" * 15),
    "nothing": ("", "(no name)"),
}  # fmt: skip


def draw_curves(name: str) -> Picture:
    table = {"method": [name] * 3, "seed": [0] * 3, "step": [1, 2, 3], "tokens": [10, 20, 30], "loss": [3.0, 2.0, 1.5]}
    return curves(pl.DataFrame(table))


def draw_losses(name: str) -> Picture:
    table = {"method": [name, "b"], "seed": [0, 0], "group_kind": "source", "group": [name, "law"], "loss": [1.0, 2.0]}
    frame = pl.DataFrame(table).with_columns(loss_low=pl.col("loss") - 0.1, loss_high=pl.col("loss") + 0.1)
    return losses(frame, "source")


def draw_parameters(name: str) -> Picture:
    return parameters(pl.DataFrame({"method": [name, "b"], "part": [name, "A"], "n_parameters": [5, 7]}))


def draw_energy(name: str) -> Picture:
    return energy(pl.DataFrame({"method": [name, "b"], "seed": 0, "energy_kwh": [0.1, 0.2], "seconds": [1.0, 2.0]}))


def draw_composition(name: str) -> Picture:
    table = {"cluster": [0, 0, 1, 1], "source": [name, "law"] * 2, "n_documents": [9, 1, 2, 8]}
    return composition(pl.DataFrame(table))


def draw_comparison(name: str) -> Picture:
    table = {"method": [name, "b"], "n_parameters": [3, None], "loss": [1.0, 2.0], "difference": [0.0, 1.0]}
    bounds = [(pl.col(c) + d).alias(f"{c}_{e}") for c in ("loss", "difference") for d, e in ((-1, "low"), (1, "high"))]
    return compared_methods(pl.DataFrame(table).with_columns(bounds), reference=name)


def draw_gaps(name: str) -> Picture:
    table = {"domain": [name, "law"], "index": [0.1, 0.2], "method": name, "difference": [0.0, 1.0]}
    frame = pl.DataFrame(table).with_columns(difference_low=pl.lit(-1.0), difference_high=pl.lit(2.0))
    return heterogeneity_gaps(frame)


def draw_gates(name: str) -> Picture:
    rows = [(0, "q_proj", e, "source", g, 0.5, 9) for g in ("all", name) for e in range(2)]
    columns = ("layer", "module", "expert", "group_kind", "group", "gate", "n_tokens")
    return gates_by_layer(pl.DataFrame(rows, schema=columns, orient="row"), "source")


def draw_association(name: str) -> Picture:
    table = {"layer": [0, 1], "group_kind": name, "variance_explained": [0.5, 0.6], "variance_null": [0.1, 0.1]}
    return association(pl.DataFrame(table))


def draw_maps(name: str) -> Picture:
    rows = [("t-SNE", p, h, i % 2, float(i), 1.0 / (i + 1)) for p in ("all", "A", "B") for h in (name, "law")
            for i in range(4)]  # fmt: skip
    table = pl.DataFrame(rows, schema=("method", "panel", "head", "layer", "x", "y"), orient="row")
    assert png(layer_maps(table, "t-SNE", "A").figure, dpi=40)
    return submodule_map(table, "t-SNE")


DRAWN = [
    draw_curves, draw_losses, draw_parameters, draw_energy, draw_composition, draw_comparison, draw_gaps, draw_gates,
    draw_association, draw_maps,
]  # fmt: skip


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("draw", DRAWN)
def test_a_name_is_drawn_as_it_is_written(draw: Callable[[str], Picture], kind: str) -> None:
    name, shown = NAMES[kind]
    if draw is draw_gates:  # titles that stand beside each other are shorter
        (shown,) = short_names([name], LONGEST_TITLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = draw(name)
        text = svg(picture)
        assert png(picture.figure, dpi=40)
    root = ElementTree.fromstring(text)
    written = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(shown.strip() in line for line in written), written
    allowed = {"svg", "g", "path", "defs", "style", "use", "text", "clipPath", "rect", "image", "tspan"}
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= allowed


def test_a_report_is_drawn_whatever_its_sources_are_called() -> None:
    names = [name for name, _ in NAMES.values()]
    inputs = report_inputs([f"question {i}" for i in range(24)], names * 2)
    for section in sections(inputs):
        for picture in section.pictures:
            ElementTree.fromstring(svg(picture))


@pytest.mark.parametrize("kind", NAMES)
def test_plain_text(kind: str) -> None:
    name, shown = NAMES[kind]
    assert plain_text(name) == shown
    assert plain_text(shown) == shown or shown.startswith(" ")
    assert len(shown) <= LONGEST_NAME
    assert plain_text("a\ud800") == "a\ufffd"  # no table holds half a character, but a message may
