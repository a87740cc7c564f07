"""The verdict on Observation II, with and without its controls."""

import polars as pl

from analysis.adapters.breakdown import ComponentAdapter, break_down
from analysis.adapters.observation_two import (
    OTHER_SEED,
    SAME_SEED,
    SEED_CONTROL,
    observation_two,
)
from tests.analysis.synthetic_run import components, lora_state


def test_a_that_only_started_equal_is_not_called_convergence():
    found = break_down(components(moved=0.2), methods=())
    assert found.observation.verdict == "looks so, but A started equal"
    assert "they are alike because they started equal" in found.observation.reason
    numbers = found.observation.numbers
    assert numbers["a_same_seed"] > 0.9 > 0.3 > numbers["a_other_seed"]
    assert numbers["b_same_data_other_seed"] > numbers["b_other_seed"] + 0.3


def test_a_that_converges_from_any_seed_is_support():
    found = break_down(components(moved=3.0, together=True), methods=())
    assert found.observation.verdict == "supported"
    assert found.observation.numbers["a_update_cosine"] > 0.95


def test_b_that_converge_more_than_a_speak_against_convergence_of_a():
    """Means of heads of three random thirds of GSM8K: A of two seeds exceed chance, their B exceed them."""
    similarities = {
        ("A", SAME_SEED): 0.956,
        ("B", SAME_SEED): 0.700,
        ("A", OTHER_SEED): 0.095,
        ("B", OTHER_SEED): 0.387,
        ("A", SEED_CONTROL): 0.099,
        ("B", SEED_CONTROL): 0.406,
    }
    rows = [
        {"layer": layer, "module": "q_proj", "matrix": matrix, "relation": relation, "subspace_similarity": value}
        for (matrix, relation), value in similarities.items()
        for layer in range(30)
    ]
    pairs = pl.DataFrame(rows).with_columns(chance=pl.lit(0.014), update_cosine=pl.lit(0.5))
    found = observation_two(pairs)
    assert found.verdict == "looks so, but A started equal"
    assert "training brings them together a little, and B more (0.39)" in found.reason


def test_without_another_seed_the_start_decides():
    together = break_down(components(moved=3.0, together=True, other_seed=False), methods=())
    assert together.observation.verdict == "supported"
    assert "they moved, and moved together" in together.observation.reason
    still = break_down(components(moved=0.2, other_seed=False), methods=())
    assert still.observation.verdict == "looks so, but A started equal"


def test_without_any_control_nothing_is_claimed():
    bare = [c for c in components(other_seed=False) if c.trained]
    assert break_down(bare, methods=()).observation.verdict == "cannot tell"
    assert break_down(bare[:1], methods=()).observation.verdict == "cannot tell"


def test_b_as_alike_as_a_is_not_support():
    twins = [ComponentAdapter(f"{i}", f"part {i}", 0, lora_state(0, 0)) for i in range(2)]
    observation = break_down(twins, methods=()).observation
    assert observation.verdict == "not supported"
    assert "not clearly more alike than B" in observation.reason
