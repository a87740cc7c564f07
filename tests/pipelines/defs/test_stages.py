"""The few computations that assets do themselves, on tables small enough to work out by hand."""

import numpy as np
import polars as pl
import pytest

from pipelines.defs.training.component_adapters import component_parts
from pipelines.training.documents import held_out_documents
from pipelines.training.recorded_gates import RecordedGates, example_rows, gate_table, layer_and_module


def documents(clusters: list[int]) -> pl.DataFrame:
    return pl.DataFrame({"document_id": [f"{i:02d}" for i in range(len(clusters))], "cluster": clusters})


def test_components_are_the_largest_clusters_and_random_parts_of_the_largest() -> None:
    parts = component_parts(documents([0] * 2 + [1] * 7 + [2] * 4), parts=2)
    assert list(parts) == ["cluster-1", "cluster-2", "iid-0", "iid-1"]
    assert [len(part) for part in parts.values()] == [7, 4, 4, 3]
    together = pl.concat([parts["iid-0"], parts["iid-1"]]).sort("document_id")
    assert together.equals(parts["cluster-1"].sort("document_id"))


def test_held_out_documents_are_capped_by_source_and_never_trained_on() -> None:
    table = pl.LazyFrame(
        {
            "document_id": ["d", "c", "b", "a", "e"],
            "source": ["x", "x", "x", "y", "x"],
            "split": ["test", "test", "test", "test", "train"],
        }
    )
    assert held_out_documents(table, 2).collect()["document_id"].to_list() == ["b", "c", "a"]
    assert len(held_out_documents(table, None).collect()) == 4


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
