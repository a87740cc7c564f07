"""Cleaning: from records to documents."""

from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import Field, field_validator

from analysis.corpus.cleaning import CleanConfig
from pipelines.corpus.source_checks import source_checks
from pipelines.corpus.sources import SourceConfig, content_of, named_once, to_source
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.configuration import fields_from, values_for
from pipelines.store.metadata import markdown_table

if TYPE_CHECKING:
    from analysis.corpus.semantic import SemanticSearch


class CorpusConfig(fields_from(CleanConfig)):  # type: ignore[misc]
    """The rules of cleaning: the fields of `analysis.corpus.cleaning.CleanConfig`."""

    evaluation_sets: list[SourceConfig] = []
    """Benchmarks whose texts must not be trained on."""

    semantic_duplicate_threshold: float | None = Field(None, gt=0, le=1)
    """Also drop documents that say the same in other words: smallest cosine of both embeddings, such as 0.9. Slow."""
    embedding_model: str | None = None
    """For that search: hub id or folder of a sentence-transformers model; default: the packaged MiniLM."""

    _named_once = field_validator("evaluation_sets")(named_once)


def _described(artifact: Artifact, raw_documents: Artifact) -> Description:
    documents, dropped = artifact.scan("documents"), artifact.scan("dropped")
    sizes = documents.group_by("source", "split").len("documents").sort("source", "split").collect()
    reasons = dropped.group_by("reason").len("records").sort("records", descending=True).collect()
    return Description(
        table="documents",
        metadata={"documents_by_source": markdown_table(sizes, rows=200), "dropped_by_reason": markdown_table(reasons)},
        checks=_checks(artifact, raw_documents),
    )


def content(config: CorpusConfig) -> dict[str, Any]:
    """The bytes of the evaluation sets."""
    return {"content": [content_of(source.read) for source in config.evaluation_sets]}


@artifact_asset(
    group="corpus",
    kinds={"polars"},
    describe=_described,
    identity=content,
    blocking={
        "ids_unique": "No two documents have one id.",
        "no_empty_text": "No document has an empty prompt or completion.",
        "every_record_accounted_for": "Documents and dropped records together are the records read.",
        "no_source_vanished": "Something is left of every source.",
    },
    warnings={"no_source_halved": "Most of every source is left."},
)
def corpus_documents(draft: Draft, config: CorpusConfig, raw_documents: Artifact) -> None:
    """Documents: normalised, deduplicated across sources, decontaminated, and split into train and test.

    The table `dropped` lists every dropped record with the reason.
    """
    from analysis.corpus.cleaning import clean
    from analysis.sources import read_source

    settings = CleanConfig(**values_for(CleanConfig, config))
    evaluation = {s.name: read_source(s.name, to_source(s.read, "evaluation")) for s in config.evaluation_sets}
    cleaned = clean(raw_documents.scan("records"), settings, evaluation=evaluation, semantic=_semantic(config))
    draft.write_table("documents", cleaned.documents)
    draft.write_table("dropped", cleaned.dropped)
    draft.write_json("data_card", cleaned.data_card)


def _semantic(config: CorpusConfig) -> "SemanticSearch | None":
    """The search for documents that say the same, if it is asked for."""
    if config.semantic_duplicate_threshold is None:
        return None
    from analysis.corpus.semantic import SemanticSearch
    from analysis.features.embeddings import SentenceEmbeddings

    return SemanticSearch(SentenceEmbeddings(config.embedding_model).transform, config.semantic_duplicate_threshold)


def _checks(artifact: Artifact, raw_documents: Artifact) -> list[Check]:
    card = artifact.json("data_card")
    documents = artifact.scan("documents")
    rows, ids, empty = (
        documents.select(
            pl.len(),
            pl.col("document_id").n_unique().alias("ids"),
            ((pl.col("prompt") == "") | (pl.col("completion") == "")).sum().alias("empty"),
        )
        .collect()
        .row(0)
    )
    dropped = artifact.scan("dropped").select(pl.len()).collect().item()
    read = raw_documents.scan("records").select(pl.len()).collect().item()
    return [
        Check("ids_unique", rows == ids, f"{rows} documents, {ids} ids", {"documents": rows, "ids": ids}),
        Check("no_empty_text", empty == 0, f"{empty} documents with an empty prompt or completion", {"empty": empty}),
        Check(
            "every_record_accounted_for",
            rows + dropped == read,
            f"{rows} kept + {dropped} dropped of {read} read",
            {"read": read, "kept": rows, "dropped": dropped},
        ),
        *source_checks(card),
    ]
