"""Assigns new documents to the clusters of a saved corpus model in one streaming pass; checks whether N still holds."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from analysis.atomic_files import of_this_version
from analysis.clusters.corpus_model import AssignedBlock, CorpusModel
from analysis.clusters.drift import N_SAMPLE, REFERENCE, AssignmentSummary, Drift, measure_drift, summarise
from analysis.clusters.known_groups import GROUPS, KnownGroups
from analysis.corpus.document_text import document_text
from analysis.corpus.documents import document_ids
from analysis.features.hidden_states import Encoder
from analysis.features.lsa import TfidfLsa
from analysis.text.normalisation import normalised
from analysis.text.sampling import TextSample

BATCH_ROWS = 8192
LABELS_SCHEMA = pl.Schema(
    {
        "document_id": pl.String(),
        "source": pl.String(),
        "cluster": pl.Int32(),
        "squared_distance": pl.Float64(),
        "explained": pl.Float32(),
    }
)


@dataclass(frozen=True)
class Assignment:
    """Summary of new documents, and how they differ from the corpus.

    Attributes:
        drift: their difference, with the verdict on N in words.
    """

    summary: AssignmentSummary
    reference: AssignmentSummary
    drift: Drift


def assign_records(
    records: pl.LazyFrame, folder: Path, labels: Path | None = None, encoder: Encoder | None = None
) -> Assignment:
    """Assign every record to a cluster, write the assignments, and compare the records with the corpus.

    Texts are normalised as in cleaning, but no record is dropped. A record without a known word goes to the broadest
    cluster and is counted in the summary. Memory does not grow with the number of records.

    Args:
        records: the table that `analysis.sources.read_source` returns.
        folder: folder of a saved `CorpusModel`, which also holds the summary of its corpus and its known groups.
        labels: Parquet file to write, with the columns of `LABELS_SCHEMA` and the rows in the order read. `explained`
            is low for documents unlike those of the corpus. None writes nothing.
        encoder: encoder for a corpus model on hidden states; else None.

    Raises:
        ValueError: there is no record, an older version wrote the corpus model, or a required encoder is missing.
    """
    folder = Path(folder)
    with of_this_version(folder):
        model, reference = CorpusModel.load(folder, encoder), AssignmentSummary.load(folder / REFERENCE)
        known = KnownGroups.load(folder / GROUPS) if isinstance(model.features, TfidfLsa) else None
    sample = TextSample(N_SAMPLE)
    if labels is None:
        blocks = (block for _, new in _assigned(records, model, sample) for block in new)
        summary = summarise(blocks, model.n_clusters)
    else:
        temporary = labels.with_name(f".{labels.name}.{os.getpid()}")
        try:
            summary = summarise(_write_labels(_assigned(records, model, sample), temporary), model.n_clusters)
            if summary.statistics.n_documents:
                os.replace(temporary, labels)
        finally:
            temporary.unlink(missing_ok=True)
    if not summary.statistics.n_documents:
        raise ValueError("expected records to assign, got none")
    if known is None or not isinstance(model.features, TfidfLsa):
        return Assignment(summary, reference, measure_drift(reference, summary))
    nearest = known.nearest(model.features, sample.texts())
    return Assignment(summary, reference, measure_drift(reference, summary, nearest, known))


def _assigned(
    records: pl.LazyFrame, model: CorpusModel, sample: TextSample
) -> Iterator[tuple[pl.DataFrame, list[AssignedBlock]]]:
    """Yield each batch of documents with its clusters; adds their texts to the sample."""
    for batch in records.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True):
        documents = batch.select("source", normalised(pl.col("prompt", "completion")))
        texts = documents.select(text=document_text(model.text))["text"]
        sample.add(texts)
        yield documents, list(model.stream([texts]))


def _write_labels(assigned: Iterator[tuple[pl.DataFrame, list[AssignedBlock]]], path: Path) -> Iterator[AssignedBlock]:
    """Write the clusters batch by batch. Each block is written before it is yielded."""
    import pyarrow.parquet as pq

    schema = pl.DataFrame(schema=LABELS_SCHEMA).to_arrow().schema
    with pq.ParquetWriter(path, schema) as writer:
        for documents, blocks in assigned:
            table = pl.DataFrame(
                {
                    "document_id": document_ids(documents["source"], documents["prompt"], documents["completion"]),
                    "source": documents["source"],
                    "cluster": np.concatenate([block.labels for block in blocks]),
                    "squared_distance": np.concatenate([block.squared_distances for block in blocks]),
                    "explained": np.concatenate([block.explained for block in blocks]),
                },
                schema=LABELS_SCHEMA,
            )
            writer.write_table(table.to_arrow())
            yield from blocks


def cluster_shares(assignment: Assignment) -> pl.DataFrame:
    """One row per cluster: `cluster, n_documents, share, share_of_corpus`."""
    counts = pl.col("n_documents")
    table = pl.DataFrame(
        {"n_documents": assignment.summary.cluster_counts, "corpus": assignment.reference.cluster_counts}
    ).with_row_index("cluster")
    shares = {"share": counts / counts.sum(), "share_of_corpus": pl.col("corpus") / pl.col("corpus").sum()}
    return table.with_columns(**shares).drop("corpus")
