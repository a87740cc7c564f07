"""What a run configuration says about sources, and reading them all into one table."""

import glob
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import dagster as dg
from pydantic import Field

from pipelines.store.artifacts import Draft, file_digest, source_version
from pipelines.store.assets import Check, artifact_asset, markdown_table, materialized
from pipelines.store.io_manager import ArtifactStore

if TYPE_CHECKING:
    from analysis.sources import Source

VERSION = source_version("analysis.sources")


class PackagesConfig(dg.Config):
    """Instruction pairs from the documentation of installed Python packages; no download."""

    kind: Literal["packages"] = "packages"
    distributions: list[str] = []
    """Names on the package index; empty: everything the `pipelines` extra pulls in."""
    tasks: list[str] = []
    max_documents_per_task: int = 1_200


class FilesConfig(dg.Config):
    """Local JSONL, JSON, CSV, TSV or Parquet; globs; `$NAME` in a path is read from the environment."""

    kind: Literal["files"] = "files"
    paths: list[str]
    columns: dict[str, str] = {}
    """Role (prompt, completion, ...) to column; empty: a known shape is recognised."""
    task: str | None = None
    split: str | None = None
    licence: str | None = None


class HubConfig(dg.Config):
    """A data set on the Hugging Face hub, pinned to a commit; `dataset` may be a local folder of the same layout."""

    kind: Literal["hub"] = "hub"
    dataset: str
    revision: str | None = None
    split: str = "train"
    subset: str | None = None
    columns: dict[str, str] = {}
    task: str | None = None
    licence: str | None = None
    tasks: list[str] = []


class CatalogConfig(dg.Config):
    """An entry of `data/catalog.yaml`, by name."""

    kind: Literal["catalog"] = "catalog"
    entry: str
    file: str | None = None
    """The catalog; left out: the one that comes with this project."""


class SourceConfig(dg.Config):
    """A named source; `read` holds exactly one kind: `packages`, `files`, `hub` or `catalog`."""

    name: str
    read: PackagesConfig | FilesConfig | HubConfig | CatalogConfig = Field(discriminator="kind")


class RawDocumentsConfig(dg.Config):
    """Which sources, and what happens when one of them fails."""

    sources: list[SourceConfig]
    on_error: Literal["raise", "skip"] = "raise"
    """`skip` goes on with the other sources; the failure is shown and kept."""


def to_source(
    config: PackagesConfig | FilesConfig | HubConfig | CatalogConfig, purpose: Literal["train", "evaluation"] = "train"
) -> "Source":
    """The frozen configuration that `analysis.sources` reads."""
    from analysis import sources

    match config:
        case PackagesConfig():
            return sources.PackagesSource(
                tuple(config.distributions), tuple(config.tasks), config.max_documents_per_task
            )
        case FilesConfig():
            paths = tuple(expanded(path) for path in config.paths)
            return sources.FilesSource(paths, config.columns, config.task, config.split, config.licence)
        case HubConfig():
            settings = config.model_dump(exclude={"kind"})
            return sources.HubSource(**settings | {"tasks": tuple(config.tasks)})
        case CatalogConfig():
            return sources.CatalogSource(config.entry, config.file, purpose)


def expanded(path: str) -> str:
    """`path` with `$NAME` and `${NAME}` replaced from the environment.

    Raises:
        dagster.Failure: a variable is not set.
    """
    full = os.path.expandvars(path)
    if "$" in full:
        raise dg.Failure(
            f"{path!r} names an environment variable that is not set. Set it, or write the path out.",
            allow_retries=False,
        )
    return full


def content_of(config: PackagesConfig | FilesConfig | HubConfig | CatalogConfig) -> object:
    """What the fingerprint needs beyond the configuration: the bytes of files, the versions of packages."""
    match config:
        case FilesConfig():
            paths = sorted({p for pattern in config.paths for p in glob.glob(expanded(pattern), recursive=True)})
            return {Path(path).name: file_digest(Path(path)) for path in paths if Path(path).is_file()}
        case PackagesConfig():
            from analysis.sources.packages.distributions import required_by

            names = config.distributions or sorted(required_by("hydralora", "pipelines"))
            return [f"{name}=={metadata.version(name)}" for name in names]
    return None


@artifact_asset(
    group="corpus",
    version=VERSION,
    kinds={"polars"},
    warnings=("every_source_read",),
    # Only sources on a hub can fail by chance; without one, a failure is final at once.
    retry_policy=dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL),
)
def raw_documents(config: RawDocumentsConfig, store: dg.ResourceParam[ArtifactStore]) -> dg.MaterializeResult:
    """Records of every configured source as they were read: prompt, completion, source, task, licence, origin."""

    def build(draft: Draft) -> None:
        from analysis.sources import SourceError, read_sources

        try:
            sources = {source.name: to_source(source.read) for source in config.sources}
            read = read_sources(sources, on_error=config.on_error)
        except SourceError as error:
            remote = any(isinstance(source.read, HubConfig | CatalogConfig) for source in config.sources)
            raise dg.Failure(str(error), allow_retries=remote) from error
        draft.write_table("records", read.records)
        draft.write_json("failures", dict(read.failures))

    artifact = store.build(
        "raw_documents",
        build,
        code_version=VERSION,
        config={**config.model_dump(), "content": [content_of(source.read) for source in config.sources]},
    )
    counts = artifact.scan("records").group_by("source").len("records").sort("source").collect()
    failures = artifact.json("failures")
    return materialized(
        artifact,
        table="records",
        metadata={"records_by_source": markdown_table(counts, rows=200), "failures": failures},
        checks=[
            Check(
                "every_source_read", not failures, "; ".join(failures.values()) or "every source was read", warning=True
            )
        ],
    )
