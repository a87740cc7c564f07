"""Documents for training and evaluation."""

import polars as pl

from pipelines.training.documents import held_out_documents


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
