"""The few computations that assets do themselves, on tables small enough to work out by hand."""

import polars as pl

from pipelines.defs.training.component_adapters import component_parts


def documents(clusters: list[int]) -> pl.DataFrame:
    return pl.DataFrame({"document_id": [f"{i:02d}" for i in range(len(clusters))], "cluster": clusters})


def test_components_are_the_largest_clusters_and_random_parts_of_the_largest() -> None:
    parts = component_parts(documents([0] * 2 + [1] * 7 + [2] * 4), parts=2)
    assert list(parts) == ["cluster-1", "cluster-2", "iid-0", "iid-1"]
    assert [len(part) for part in parts.values()] == [7, 4, 4, 3]
    together = pl.concat([parts["iid-0"], parts["iid-1"]]).sort("document_id")
    assert together.equals(parts["cluster-1"].sort("document_id"))
