"""From records to documents."""

import dagster as dg
import polars as pl

from pipelines.defs.sources import SourceConfig, content_of, to_source
from pipelines.store.artifacts import Artifact, Draft, source_version
from pipelines.store.assets import Check, artifact_asset, markdown_table, materialized
from pipelines.store.io_manager import ArtifactStore

VERSION = source_version(
    "analysis.corpus.cleaning",
    "analysis.corpus.data_card",
    "analysis.corpus.decontamination",
    "analysis.corpus.deduplication",
    "analysis.corpus.documents",
    "analysis.text.language",
    "analysis.text.normalisation",
    "analysis.text.shingles",
)


class CorpusConfig(dg.Config):
    """What is kept of the records; see `analysis.corpus.cleaning.CleanConfig`."""

    max_prompt_characters: int = 20_000
    max_completion_characters: int = 20_000
    near_duplicate_threshold: float | None = 0.8
    decontaminate: bool = True
    max_documents_per_source: int | None = None
    test_fraction: float = 0.1
    detect_language: bool = True
    evaluation_sets: list[SourceConfig] = []
    """Benchmarks whose texts must not be trained on."""


@artifact_asset(
    group="corpus",
    version=VERSION,
    kinds={"polars"},
    blocking=(
        "ids_unique",
        "no_empty_text",
        "every_record_accounted_for",
    ),
)
def corpus_documents(
    config: CorpusConfig, store: dg.ResourceParam[ArtifactStore], raw_documents: Artifact
) -> dg.MaterializeResult:
    """Documents: normalised, without duplicates across sources and without texts of evaluation sets, split in two.

    Every record that was dropped is in the table `dropped` with its reason.
    """

    def build(draft: Draft) -> None:
        from analysis.corpus.cleaning import CleanConfig, clean
        from analysis.sources import read_source

        settings = {name: value for name, value in config.model_dump().items() if name != "evaluation_sets"}
        evaluation = {s.name: read_source(s.name, to_source(s.read, "evaluation")) for s in config.evaluation_sets}
        try:
            cleaned = clean(raw_documents.scan("records"), CleanConfig(**settings), evaluation=evaluation)
        except ValueError as error:
            raise dg.Failure(f"corpus_documents: {error}", allow_retries=False) from error
        draft.write_table("documents", cleaned.documents)
        draft.write_table("dropped", cleaned.dropped)
        draft.write_json("data_card", cleaned.data_card)

    artifact = store.build(
        "corpus_documents",
        build,
        code_version=VERSION,
        config={**config.model_dump(), "content": [content_of(source.read) for source in config.evaluation_sets]},
        inputs={"raw_documents": raw_documents},
    )
    return materialized(
        artifact, table="documents", metadata=_metadata(artifact), checks=_checks(artifact, raw_documents)
    )


def _metadata(artifact: Artifact) -> dict[str, object]:
    documents, dropped = artifact.scan("documents"), artifact.scan("dropped")
    sizes = documents.group_by("source", "split").len("documents").sort("source", "split").collect()
    reasons = dropped.group_by("reason").len("records").sort("records", descending=True).collect()
    return {"documents_by_source": markdown_table(sizes, rows=200), "dropped_by_reason": markdown_table(reasons)}


def _checks(artifact: Artifact, raw_documents: Artifact) -> list[Check]:
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
        Check("ids_unique", rows == ids, f"{rows} documents, {ids} ids"),
        Check("no_empty_text", empty == 0, f"{empty} documents with an empty prompt or completion"),
        Check("every_record_accounted_for", rows + dropped == read, f"{rows} kept + {dropped} dropped of {read} read"),
    ]
