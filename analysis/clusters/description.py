"""The description of a clustering: tables of what each cluster holds, and the model that assigns new documents."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.clusters.corpus_model import AssignedBlock, CorpusModel
from analysis.clusters.drift import REFERENCE, summarise_corpus
from analysis.clusters.interpretation import cross_table, examples, top_terms
from analysis.clusters.known_groups import GROUPS, describe_groups
from analysis.clusters.tail import Communities, answer_lengths
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


def describe_tail(
    training: pl.DataFrame, text: str, communities: Communities, of_row: NDArray[np.int32], n_terms: int = 8
) -> pl.DataFrame:
    """The parts of the tail, largest first: `part, n_documents, share_of_answers, top_terms, sources`.

    `share_of_answers` is the part's share of the words of all answers; `sources` holds its sources, largest first.

    Args:
        training: training documents.
        text: which text is clustered; see `analysis.corpus.document_text`.
        of_row: [n_training], the community of each training document.
    """
    columns: dict[str, Any] = {"community": of_row, "text": training.select(text=document_text(text))["text"]}
    lengths = answer_lengths(training["completion"])
    columns["share"] = lengths / max(lengths.sum(), 1)
    table = training.select("source").with_columns(**columns)
    table = table.filter(communities.is_small[of_row])
    order = table.group_by("community").len().sort("len", "community", descending=[True, False])["community"]
    table = table.with_columns(part=pl.col("community").replace_strict(order, range(len(order)), return_dtype=pl.Int32))
    terms = top_terms(table["text"], table["part"].to_numpy(), n_terms).group_by("cluster")
    parts = table.group_by("part").agg(
        n_documents=pl.len(),
        share_of_answers=pl.col("share").sum(),
        sources=pl.col("source").value_counts(sort=True).struct.field("source"),
    )
    named = terms.agg(top_terms=pl.col("term").sort_by("rank")).rename({"cluster": "part"})
    found = parts.join(named, on="part", how="left").with_columns(pl.col("top_terms").fill_null([])).sort("part")
    return found.select("part", "n_documents", "share_of_answers", "top_terms", "sources")


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
