import numpy as np
import polars as pl
import pytest
from matplotlib.text import Text

from analysis.adapters.breakdown import ComponentAdapter, break_down
from analysis.adapters.observation_two import (
    EXPERTS,
    FROM_START,
    OTHER_SEED,
    SAME_SEED,
    SEED_CONTROL,
    UNTRAINED,
)
from analysis.adapters.parts import OUTSIDE, parameter_counts, submodules
from analysis.figures.breakdown import layer_maps, similarity_by_layer
from tests.analysis.synthetic_run import MODULES, components, hydralora_state, lora_state


def test_heads_are_recognised_across_seeds_by_what_b_learnt():
    found = break_down(components(), methods=())
    by_matrix = {row["matrix"]: row for row in found.identification.iter_rows(named=True)}
    assert by_matrix["B"]["accuracy"] == 1
    assert by_matrix["A"]["p"] > 0.05  # here A moves at random
    assert by_matrix["A"]["n_places"] == 4 * len(MODULES)
    assert "the difference is their data" in found.observation.reason
    assert break_down(components(other_seed=False), methods=()).identification.is_empty()
    # Parts that are no different, as IID parts: B depends on its seed alone.
    alike = [
        ComponentAdapter(f"{part} {seed}", f"{part}", seed, lora_state(10 * seed + part, 0)) for seed in (0, 1)
        for part in range(3)
    ]  # fmt: skip
    observation = break_down(alike, methods=()).observation
    assert "no sign of their data" in observation.reason


def test_modules_outside_of_the_layers_are_compared_too():
    def with_head(seed: int, part: int) -> dict[str, np.ndarray]:
        generator = np.random.default_rng([seed, part])
        head = {"A": generator.normal(size=(4, 48)), "B": generator.normal(size=(200, 4))}
        named = {f"base_model.model.lm_head.lora_{m}.weight": values for m, values in head.items()}
        return lora_state(seed, part, n_layers=2) | named

    parts = submodules(with_head(0, 0), "x")
    assert [(s.layer, s.module, s.rows.shape) for s in parts[:2]] == [
        (OUTSIDE, "lm_head", (4, 48)), (OUTSIDE, "lm_head", (4, 200)),
    ]  # fmt: skip
    assert parameter_counts(with_head(0, 0))["A"] == parameter_counts(lora_state(0, 0, n_layers=2))["A"] + 4 * 48
    heads = [ComponentAdapter(f"{p}", f"{p}", 0, with_head(0, p)) for p in range(2)]
    found = break_down(heads, methods=("t-SNE",))
    assert found.pairs.filter(module="lm_head")["matrix"].to_list() == ["A", "B"]
    for picture in (similarity_by_layer(found.pairs), layer_maps(found.embedding, "t-SNE", "B")):
        words = {text.get_text() for text in picture.figure.findobj(Text)}
        assert not {"layer -1", "-1", "A lm_head"} & words
        assert {"layer 1", "A q_proj"} & words


def test_tables_of_a_breakdown():
    found = break_down(components(), hydralora_state(3), methods=("t-SNE",))
    assert set(found.pairs["relation"]) == {SAME_SEED, OTHER_SEED, SEED_CONTROL, UNTRAINED, FROM_START, EXPERTS}
    counts = dict(found.pairs.group_by("relation").len().iter_rows())
    places = 4 * len(MODULES)
    assert counts[SAME_SEED] == 2 * 3 * 2 * places  # seeds, pairs of parts, A and B
    assert counts[FROM_START] == 2 * 3 * places  # A only: B starts at zero
    assert counts[UNTRAINED] == places
    assert counts[EXPERTS] == 3 * places
    panels = dict(found.embedding.group_by("panel").len().iter_rows())
    assert panels == {"all": 6 * places, "A": 3 * places, "B": 3 * places}
    moved = found.submodules.filter(pl.col("trained") & (pl.col("matrix") == "A") & (pl.col("part") != "hydralora"))
    assert moved["from_start"].null_count() == 0
    assert moved["from_start"].to_numpy().mean() == pytest.approx(0.2, abs=0.03)
    by_matrix = {row["matrix"]: row for row in found.separability.iter_rows(named=True)}
    # The nearest neighbours of an A are its twins in other heads, so their labels are worse than chance.
    assert by_matrix["A"]["knn_accuracy"] < by_matrix["A"]["chance"]


def test_the_same_input_gives_the_same_tables():
    one, other = (break_down(components(), methods=("t-SNE",), random_state=5) for _ in range(2))
    assert one.embedding.equals(other.embedding)
    assert one.separability.equals(other.separability)
    assert one.observation == other.observation


def test_components_must_match():
    one = components()[0]
    with pytest.raises(ValueError, match="unique names"):
        break_down([one, one])
    short = ComponentAdapter("short", "x", 0, lora_state(0, 0, n_layers=2))
    with pytest.raises(ValueError, match="expected short to adapt the same 12 modules as sum, got 6"):
        break_down([one, short])
