"""What a run configuration says about sources, and the frozen configuration that `analysis.sources` reads."""

import glob
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import dagster as dg
from pydantic import Field

from pipelines.store.manifest import file_hash

if TYPE_CHECKING:
    from analysis.sources import Source


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
            return {path: file_hash(Path(path)) for path in paths if Path(path).is_file()}
        case PackagesConfig():
            from analysis.sources.packages.distributions import required_by

            names = config.distributions or sorted(required_by("hydralora", "pipelines"))
            return [f"{name}=={metadata.version(name)}" for name in names]
    return None
