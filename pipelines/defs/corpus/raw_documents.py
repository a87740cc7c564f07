"""Reading all sources into one table."""

from typing import Literal

import dagster as dg
from pydantic import field_validator

from pipelines.corpus.sources import SourceConfig, content_of_sources, named_once, to_source
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.metadata import markdown_table


class RawDocumentsConfig(dg.Config):
    """Which sources, and what happens when one of them fails."""

    sources: list[SourceConfig]
    on_error: Literal["raise", "skip"] = "raise"
    """`skip` continues with the other sources; the failure is recorded and shown."""

    _named_once = field_validator("sources")(named_once)


def _described(artifact: Artifact) -> Description:
    counts = artifact.scan("records").group_by("source").len("records").sort("source").collect()
    failures, notes = artifact.json("failures"), artifact.json("notes")
    found = "; ".join(failures.values()) or "every source was read"
    left_out = [f"source {name!r}: {text}" for name, texts in notes.items() for text in texts]
    return Description(
        table="records",
        metadata={"records_by_source": markdown_table(counts, rows=200), "failures": failures, "notes": notes},
        checks=[
            Check("every_source_read", not failures, found, {"failed_sources": len(failures)}),
            Check(
                "everything_read", not left_out, "; ".join(left_out) or "nothing was left out", {"notes": len(left_out)}
            ),
        ],
    )


@artifact_asset(
    group="corpus",
    kinds={"polars"},
    describe=_described,
    identity=content_of_sources,
    fresh_days=30,
    warnings={
        "every_source_read": "Every configured source was read.",
        "everything_read": "Nothing that belongs to the texts was left out, and all bytes fit the encoding.",
    },
    # A retry can only help if the hub did not answer. Every other failure is final.
    retry_policy=dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL),
)
def raw_documents(draft: Draft, config: RawDocumentsConfig) -> None:
    """Records of every configured source, as read: prompt, completion, source, task, licence, origin."""
    from analysis.sources import SourceError, UnreachableError, read_sources

    try:
        sources = {source.name: to_source(source.read) for source in config.sources}
        read = read_sources(sources, on_error=config.on_error)
    except SourceError as error:
        raise dg.Failure(str(error), allow_retries=isinstance(error, UnreachableError)) from None
    draft.write_table("records", read.records)
    draft.write_json("failures", dict(read.failures))
    draft.write_json("notes", {name: list(notes) for name, notes in read.notes.items()})
