"""Gates of held-out documents."""

import numpy as np
import polars as pl
import pytest

from pipelines.training.recorded_gates import RecordedGates, example_rows, gate_table, layer_and_module


def test_examples_go_round_the_sources() -> None:
    assert example_rows(["x", "x", "x", "y", "z"], 4) == [0, 3, 4, 1]


def test_layer_and_module() -> None:
    assert layer_and_module("model.layers.3.self_attn.q_proj") == (3, "self_attn.q_proj")
    assert layer_and_module("transformer.h.11.attn.c_attn") == (11, "attn.c_attn")
    assert layer_and_module("base_model.model.lm_head") == (-1, "lm_head")


def test_group_means_weigh_documents_by_their_tokens() -> None:
    recorded = RecordedGates(
        modules=[(0, "q_proj")],
        gates=np.array([[[1.0, 0.0]], [[0.0, 1.0]]], np.float32),
        entropy=np.zeros(1),
        num_tokens=np.array([3.0, 1.0]),
        examples=[],
    )
    table = gate_table(
        recorded,
        pl.DataFrame(
            {"source": ["x", "x"], "task": [None, "t"], "cluster": [0, 1]}, schema_overrides={"task": pl.String}
        ),
    )
    gates = {
        (kind, group): gate
        for kind, group, gate in table.filter(pl.col("expert") == 0).select("group_kind", "group", "gate").iter_rows()
    }
    assert gates == pytest.approx(
        {("all", "all"): 0.75, ("source", "x"): 0.75, ("task", "t"): 0.0, ("cluster", "0"): 1.0, ("cluster", "1"): 0.0}
    )
