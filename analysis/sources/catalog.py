"""Source kind `catalog`: corpora by name, from `catalog.yaml` beside this module."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from analysis.sources.hub import HubSource
from analysis.sources.records import SourceError

Purpose = Literal["train", "evaluation"]


@dataclass(frozen=True)
class CatalogSource:
    """An entry of a catalog.

    Args:
        file: path of the catalog. None takes the catalog of this project.
        purpose: what the data is read for. An entry for evaluation cannot be read for training.
    """

    entry: str
    file: str | None = None
    purpose: Purpose = "train"


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """The description of a corpus in a catalog."""

    name: str
    dataset: str
    revision: str | None = None
    split: str = "train"
    subset: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    licence: str
    roles: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    permissive: bool = False
    purpose: Purpose
    domain: str = ""
    notes: str = ""


HUB_FIELDS = ("dataset", "revision", "split", "subset", "columns", "tasks", "licence", "roles", "splits")
FIELDS = tuple(field.name for field in fields(CatalogEntry) if field.name != "name")


def catalog_file() -> Path:
    """The catalog of this project."""
    return Path(__file__).with_name("catalog.yaml")


def load_catalog(file: str | Path | None = None) -> dict[str, CatalogEntry]:
    """All entries by name.

    Raises:
        SourceError: the file does not exist, or an entry has an unknown or missing field.
    """
    import yaml

    path = Path(file) if file else catalog_file()
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SourceError(f"cannot read the catalog {path}: {error}") from error
    if not isinstance(entries, dict):
        raise SourceError(f"{path}: expected entries by name, got {type(entries).__name__}")
    return {name: _entry(f"{path}, entry {name!r}", name, values) for name, values in entries.items()}


def hub_source(config: CatalogSource) -> HubSource:
    """The entry as a hub source.

    Raises:
        SourceError: the entry does not exist, is not pinned, or is for evaluation but wanted for training.
    """
    catalog = load_catalog(config.file)
    entry = catalog.get(config.entry)
    if entry is None:
        raise SourceError(f"no entry {config.entry!r} in the catalog; expected one of {', '.join(catalog)}")
    if entry.purpose == "evaluation" and config.purpose == "train":
        raise SourceError(f"{config.entry} is for evaluation only: training on it would spoil every result on it")
    if entry.revision is None and not Path(entry.dataset).is_dir():
        raise SourceError(
            f"{config.entry} is not pinned. Put the commit you want into a copy of the catalog and name it under "
            f"`file`, or use `read: {{hub: ..}}` with dataset {entry.dataset!r} and that revision"
        )
    return HubSource(**{field: getattr(entry, field) for field in HUB_FIELDS})


def _entry(where: str, name: str, values: object) -> CatalogEntry:
    if not isinstance(values, dict):
        raise SourceError(f"{where}: expected fields, got {values!r}")
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if value is not None
    }
    unknown, missing = sorted(set(values) - set(FIELDS)), sorted({"dataset", "licence", "purpose"} - set(given))
    if unknown or missing:
        raise SourceError(f"{where}: unknown fields {unknown}, missing fields {missing}; known: {list(FIELDS)}")
    if given["purpose"] not in get_args(Purpose):
        raise SourceError(f"{where}: purpose must be one of {get_args(Purpose)}, got {given['purpose']!r}")
    return CatalogEntry(name=name, **given)
