"""A few figures against reference images: what a test of their data cannot see, such as marks that hide each other.

`HYDRALORA_UPDATE_IMAGES=1 pytest tests/analysis/figures/test_images.py` writes the references anew; look at them then.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.testing.compare import compare_images

from analysis.adapters.observation_two import FROM_START, OTHER_SEED, SAME_SEED
from analysis.figures import Picture, png
from analysis.figures.breakdown import similarity_by_relation, submodule_map
from analysis.figures.clusters import composition, elbow
from analysis.figures.routing import gates_by_layer
from analysis.figures.training import losses
from tests.analysis.synthetic_run import routing_tables

REFERENCES = Path(__file__).parent / "images"
UPDATE = "HYDRALORA_UPDATE_IMAGES"
DPI = 60
TOLERANCE = 3.0
"""Root mean square difference of pixel values, 0 to 255. Fonts are matplotlib's own; what is left is how its versions
smooth edges. The least change below that a reader would see differs by more than twice that."""


def draw_elbow(n_experts: int = 4) -> Picture:
    ks = np.arange(1, 13)
    sweep = pl.DataFrame({"n_clusters": ks, "inertia": 100 * (0.35 + 0.65 * np.exp(-(ks - 1) / 1.8))})
    return elbow(sweep, {"num_clusters": n_experts, "interval": (n_experts - 1, n_experts + 1)})


def draw_composition(pure: int = 90) -> Picture:
    rows = [
        (c, s, pure if c == i else (100 - pure) // 2) for c in range(3) for i, s in enumerate(("law", "code", "maths"))
    ]
    return composition(pl.DataFrame(rows, schema=("cluster", "source", "n_documents"), orient="row"))


def draw_losses(better: float = 0.1) -> Picture:
    rows = [
        (method, 0, kind, group, loss, loss - 0.06, loss + 0.05)
        for method, less in (("hydralora", better), ("lora_matched", 0.0))
        for kind, group, loss in (("all", "all", 1.5 - less), ("source", "law", 1.9 - less), ("source", "code", 1.2))
    ]
    columns = ("method", "seed", "group_kind", "group", "loss", "loss_low", "loss_high")
    return losses(pl.DataFrame(rows, schema=columns, orient="row"), "source")


def draw_relations(other_seed: float = 0.05) -> Picture:
    means = {("A", SAME_SEED): 0.9, ("A", OTHER_SEED): other_seed, ("A", FROM_START): 0.95, ("B", SAME_SEED): 0.3}
    rows = [
        (relation, matrix, mean + 0.02 * np.sin(place), 0.06)
        for (matrix, relation), mean in means.items()
        for place in range(30)
    ]
    return similarity_by_relation(
        pl.DataFrame(rows, schema=("relation", "matrix", "subspace_similarity", "chance"), orient="row")
    )


def draw_submodules(apart: float = 0.0) -> Picture:
    rows = [
        ("t-SNE", panel, head, np.cos(place) + apart * h * (panel == "B"), np.sin(2.0 * place))
        for panel in ("all", "A", "B")
        for h, head in enumerate(("summarization", "closed qa", "information extraction"))
        for place in range(24)
    ]
    return submodule_map(pl.DataFrame(rows, schema=("method", "panel", "head", "x", "y"), orient="row"), "t-SNE")


def draw_gates(follow: float = 2.0) -> Picture:
    return gates_by_layer(routing_tables([0, 1, 2] * 8, n_experts=3, follow=follow)[0], "cluster")


# How each is drawn, and a change that a reader would see.
FIGURES: dict[str, tuple[Callable[..., Picture], object]] = {
    "elbow": (draw_elbow, 5),
    "composition": (draw_composition, 60),
    "losses": (draw_losses, 0.3),
    "relations": (draw_relations, 0.5),
    "submodules": (draw_submodules, 0.5),
    "gates": (draw_gates, 0.5),
}


def difference(picture: Picture, name: str, folder: Path) -> float:
    """Root mean square difference to the reference; infinite for another size."""
    drawn = folder / f"{name}.png"
    drawn.write_bytes(png(picture.figure, DPI))
    try:
        found = compare_images(str(REFERENCES / f"{name}.png"), str(drawn), tol=0, in_decorator=True)
    except ValueError:  # the sizes differ
        return float("inf")
    return 0.0 if found is None else float(found["rms"])


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_looks_as_it_did(name: str, tmp_path: Path) -> None:
    draw, changed = FIGURES[name]
    if UPDATE in os.environ:
        REFERENCES.mkdir(exist_ok=True)
        (REFERENCES / f"{name}.png").write_bytes(png(draw().figure, DPI))
    assert difference(draw(), name, tmp_path) < TOLERANCE, f"{tmp_path} has the new image; {UPDATE}=1 accepts it"
    assert difference(draw(changed), name, tmp_path) > 2 * TOLERANCE
