"""Run configuration of sources, and its conversion to the source classes of `analysis.sources`."""

import dataclasses
import os
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import dagster as dg
from pydantic import Field

from pipelines.store.files.manifest import file_hash

if TYPE_CHECKING:
    from analysis.sources import CatalogSource, Source


class PackagesConfig(dg.Config):
    """Instruction pairs from the documentation of installed Python packages; no download."""

    kind: Literal["packages"] = "packages"
    distributions: list[str] = []
    """Names on the package index; empty: everything the `pipelines` extra pulls in."""
    tasks: list[str] = []
    max_documents_per_task: int = Field(1_200, ge=1)


class FilesConfig(dg.Config):
    """Local JSONL, JSON, CSV, TSV or Parquet; globs; `$NAME` in a path is read from the environment, `$$` is a `$`."""

    kind: Literal["files"] = "files"
    paths: list[str]
    columns: dict[str, str] = {}
    """Role (prompt, completion, ...) to column; empty: a known shape is recognised."""
    task: str | None = None
    split: str | None = None
    licence: str | None = None
    roles: dict[str, str] = {}
    """Role names of messages to system, user, assistant or tool, where they are not common ones."""
    splits: dict[str, str] = {}
    """Names of splits to train or test, where they are not common ones."""
    encoding: str | None = None
    """Of text files; left out: by the byte order mark, else UTF-8."""
    separator: str | None = None
    """Of CSV; left out: found in the header."""
    quote: str = '"'
    """Around fields of CSV; empty: no field is quoted."""
    escape: str | None = None
    """Before a quote inside a quoted field of CSV; left out: quotes are doubled, or a backslash if it must be one."""


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
    roles: dict[str, str] = {}
    splits: dict[str, str] = {}


class CatalogConfig(dg.Config):
    """An entry of `analysis/sources/catalog.yaml`, by name."""

    kind: Literal["catalog"] = "catalog"
    entry: str
    file: str | None = None
    """The catalog; left out: the one that comes with this project."""


AnyConfig = PackagesConfig | FilesConfig | HubConfig | CatalogConfig


class SourceConfig(dg.Config):
    """A named source; `read` holds exactly one kind: `packages`, `files`, `hub` or `catalog`."""

    name: str
    read: PackagesConfig | FilesConfig | HubConfig | CatalogConfig = Field(discriminator="kind")


def named_once(sources: list[SourceConfig]) -> list[SourceConfig]:
    """The same list. Two sources with one name are refused, because the name identifies the source of a record.

    Raises:
        dagster.Failure: two sources have the same name. It is not a ValueError, because pydantic would wrap a
        ValueError and Dagster would retry.
    """
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise dg.Failure(
            f"sources: expected unique names, got {twice} more than once. Give them different names, "
            f"or put the files under `paths` of one source.",
            allow_retries=False,
        )
    return sources


def to_source(config: AnyConfig, purpose: Literal["train", "evaluation"] = "train") -> "Source":
    """Convert to the source class that `analysis.sources` reads."""
    from analysis import sources

    match config:
        case PackagesConfig():
            return sources.PackagesSource(
                tuple(config.distributions), tuple(config.tasks), config.max_documents_per_task
            )
        case FilesConfig():
            settings = config.model_dump(exclude={"kind"})
            return sources.FilesSource(**settings | {"paths": tuple(expanded(path) for path in config.paths)})
        case HubConfig():
            settings = config.model_dump(exclude={"kind"})
            return sources.HubSource(**settings | {"tasks": tuple(config.tasks)})
        case CatalogConfig():
            return sources.CatalogSource(config.entry, config.file, purpose)


VARIABLE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})")


def expanded(path: str) -> str:
    """Replace `$NAME` and `${NAME}` in `path` by environment variables, and `$$` by `$`.

    Raises:
        dagster.Failure: an environment variable is not set.
    """

    def value(found: re.Match[str]) -> str:
        name = found[2] or found[3]
        if name is None:
            return "$"
        if name not in os.environ:
            raise dg.Failure(
                f"{path!r} names the environment variable {name}, which is not set. Set it, write the path out, or "
                f"write $$ for a dollar sign.",
                allow_retries=False,
            )
        return os.environ[name]

    return VARIABLE.sub(value, path)


def content_of(config: AnyConfig) -> object:
    """What the fingerprint needs besides the configuration: paths and hashes of files, and versions of packages."""
    from analysis.sources import SourceError, hub_source, matching_files

    match config:
        case FilesConfig():
            return _digests(path for pattern in config.paths for path in matching_files(expanded(pattern)))
        case PackagesConfig():
            from analysis.sources.packages.distributions import required_by

            names = config.distributions or sorted(required_by("hydralora", "pipelines"))
            return [f"{name}=={metadata.version(name)}" for name in names]
        case HubConfig():
            return _folder_digests(config.dataset)
        case CatalogConfig():
            try:
                source = hub_source(cast("CatalogSource", to_source(config, "evaluation")))
            except SourceError:  # reading the source raises it again, with its context
                return None
            return [dataclasses.asdict(source), _folder_digests(source.dataset)]


def _digests(paths: Iterable[Path]) -> dict[str, str]:
    """Path as given -> digest of the file. The full path is the key, so equal file names in two folders both count."""
    return {str(path): file_hash(path) for path in sorted(set(paths))}


def _folder_digests(folder: str) -> dict[str, str]:
    """Digests of the files of a local data set; empty for a hub data set, whose commit is in the configuration."""
    return _digests(path for path in Path(folder).rglob("*") if path.is_file()) if Path(folder).is_dir() else {}
