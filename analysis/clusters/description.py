"""The description of a clustering: tables of what each cluster holds, and the model that assigns new documents."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.clusters.corpus_model import AssignedBlock, CorpusModel
from analysis.clusters.drift import REFERENCE, summarise_corpus
from analysis.clusters.interpretation import cross_table, examples, top_terms
from analysis.clusters.known_groups import GROUPS, describe_groups
from analysis.corpus.document_text import document_text
from analysis.features.vectoriser import TextStatistics

EXCERPT = 400


def describe_clusters(
    documents: pl.DataFrame, text: str, positions: pl.DataFrame, n_terms: int = 12, n_examples: int = 5
) -> dict[str, pl.DataFrame]:
    """Describe the content of each cluster.

    Args:
        text: which text is clustered; see `analysis.corpus.document_text`.
        positions: of `analysis.clusters.interpretation.document_positions`, a row for each document.
        n_terms, n_examples: number of top terms, and of examples of each kind.

    Returns:
        `clusters`: cluster, n_documents, top_terms; `examples`: cluster, kind (representative, borderline, outlier),
        rank, document_id, source, excerpt; `composition` and `tasks`: cluster, source or task, n_documents and shares.
    """
    labels = positions["cluster"].to_numpy()
    terms = top_terms(documents.select(text=document_text(text))["text"], labels, n_terms)
    terms = terms.group_by("cluster").agg(top_terms=pl.col("term").sort_by("rank"))
    sizes = positions.group_by("cluster").agg(n_documents=pl.len())
    clusters = sizes.join(terms, on="cluster", how="left").with_columns(pl.col("top_terms").fill_null([]))
    excerpts = documents.select(
        "document_id", "source", excerpt=pl.concat_str("prompt", "completion", separator="\n").str.slice(0, EXCERPT)
    ).with_row_index("row")
    shown = examples(positions, n_examples).with_columns(pl.col("row").cast(pl.UInt32))
    return {
        "clusters": clusters.sort("cluster"),
        "examples": shown.join(excerpts, on="row", how="left", maintain_order="left").drop("row"),
        **{
            name: cross_table(labels, documents[column]).rename({"group": column, "documents": "n_documents"})
            for name, column in (("composition", "source"), ("tasks", "task"))
        },
    }


def save_corpus_model(
    folder: Path,
    model: CorpusModel,
    documents: pl.DataFrame,
    positions: pl.DataFrame,
    explained: NDArray[np.float32],
    statistics: TextStatistics,
    random_state: int = 0,
) -> None:
    """Write what `analysis.clusters.assignment` needs for new documents: the model, its corpus and the known groups.

    Args:
        explained: [n_documents], as in `FeatureBlock`.
    """
    labels = positions["cluster"].to_numpy()
    is_held_out = (documents["split"] == "test").to_numpy()
    model.save(folder)
    block = AssignedBlock(labels, np.square(positions["distance"].to_numpy()), explained, statistics)
    summarise_corpus(block, is_held_out, model.n_clusters).save(folder / REFERENCE)
    texts = documents.select(text=document_text(model.text))["text"]
    sources = documents["source"]
    known = describe_groups(model, texts, sources, labels.astype(np.int32), explained, is_held_out, random_state)
    if known is not None:
        known.save(folder / GROUPS)
