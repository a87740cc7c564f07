"""Run configuration of sources, and its conversion to the source classes of `analysis.sources`."""

import dataclasses
import os
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import dagster as dg
from pydantic import Field

from analysis.sources import CatalogSource, FilesSource, HubSource, PackagesSource
from pipelines.store.configuration import fields_from
from pipelines.store.files.manifest import file_hash

if TYPE_CHECKING:
    from analysis.sources import Source


class PackagesConfig(fields_from(PackagesSource)):  # type: ignore[misc]
    """Instruction pairs from the documentation of installed Python packages; no download."""

    kind: Literal["packages"] = "packages"


class FilesConfig(fields_from(FilesSource)):  # type: ignore[misc]
    """Local JSONL, JSON, CSV, TSV or Parquet; globs; `$NAME` in a path is read from the environment, `$$` is a `$`."""

    kind: Literal["files"] = "files"


class HubConfig(fields_from(HubSource)):  # type: ignore[misc]
    """A data set on the Hugging Face hub, pinned to a commit; `dataset` may be a local folder of the same layout."""

    kind: Literal["hub"] = "hub"


class CatalogConfig(fields_from(CatalogSource, without=("purpose",))):  # type: ignore[misc]
    """An entry of `analysis/sources/catalog.yaml`, by name."""

    kind: Literal["catalog"] = "catalog"


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
    values = config.model_dump(exclude={"kind"})
    match config:
        case PackagesConfig():
            return PackagesSource(**_tuples(values))
        case FilesConfig():
            return FilesSource(**_tuples(values) | {"paths": tuple(expanded(path) for path in config.paths)})
        case HubConfig():
            return HubSource(**_tuples(values))
        case CatalogConfig():
            return CatalogSource(**values, purpose=purpose)


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


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


def content_of_sources(config: Any) -> dict[str, Any]:
    """The content of the field `sources` of an asset's configuration, for its fingerprint."""
    return {"content": [content_of(source.read) for source in config.sources]}


def content_of(config: AnyConfig) -> object:
    """Inputs of the fingerprint besides the configuration: paths and hashes of files, and versions of packages."""
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
                source = hub_source(cast(CatalogSource, to_source(config, "evaluation")))
            except SourceError:  # reading the source raises it again, with its context
                return None
            return [dataclasses.asdict(source), _folder_digests(source.dataset)]


def _digests(paths: Iterable[Path]) -> dict[str, str]:
    """Path as given -> digest of the file. The full path is the key, so equal file names in two folders both count."""
    return {str(path): _digest(path) for path in sorted(set(paths))}


def _digest(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError as error:  # such as a link to nothing; reading the source raises it again, where it can be skipped
        return str(error)


def _folder_digests(folder: str) -> dict[str, str]:
    """Digests of the files of a local data set; empty for a hub data set, whose commit is in the configuration."""
    return _digests(path for path in Path(folder).rglob("*") if path.is_file()) if Path(folder).is_dir() else {}
