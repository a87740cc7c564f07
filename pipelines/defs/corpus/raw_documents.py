"""Reading all sources into one table."""

from typing import Any, Literal

import dagster as dg

from pipelines.corpus.sources import CatalogConfig, HubConfig, SourceConfig, content_of, to_source
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.metadata import markdown_table


class RawDocumentsConfig(dg.Config):
    """Which sources, and what happens when one of them fails."""

    sources: list[SourceConfig]
    on_error: Literal["raise", "skip"] = "raise"
    """`skip` goes on with the other sources; the failure is shown and kept."""


def described(artifact: Artifact) -> Description:
    counts = artifact.scan("records").group_by("source").len("records").sort("source").collect()
    failures = artifact.json("failures")
    found = "; ".join(failures.values()) or "every source was read"
    return Description(
        table="records",
        metadata={"records_by_source": markdown_table(counts, rows=200), "failures": failures},
        checks=[Check("every_source_read", not failures, found)],
    )


def content(config: RawDocumentsConfig) -> dict[str, Any]:
    """The bytes of files and the versions of packages: what the configuration alone does not say."""
    return {"content": [content_of(source.read) for source in config.sources]}


@artifact_asset(
    group="corpus",
    kinds={"polars"},
    describe=described,
    identity=content,
    warnings={"every_source_read": "Every configured source was read."},
    # Only sources on a hub can fail by chance; without one, a failure is final at once.
    retry_policy=dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL),
)
def raw_documents(draft: Draft, config: RawDocumentsConfig) -> None:
    """Records of every configured source as they were read: prompt, completion, source, task, licence, origin."""
    from analysis.sources import SourceError, read_sources

    try:
        sources = {source.name: to_source(source.read) for source in config.sources}
        read = read_sources(sources, on_error=config.on_error)
    except SourceError as error:
        remote = any(isinstance(source.read, HubConfig | CatalogConfig) for source in config.sources)
        raise dg.Failure(str(error), allow_retries=remote) from None
    draft.write_table("records", read.records)
    draft.write_json("failures", dict(read.failures))
