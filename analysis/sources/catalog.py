"""Source kind `catalog`: corpora by name, from `catalog.yaml` beside this module."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from analysis.sources.hub import HubSource
from analysis.sources.records import SourceError

Purpose = Literal["train", "evaluation"]
HUB_FIELDS = ("dataset", "revision", "split", "subset", "columns", "tasks", "licence", "roles", "splits")
FIELDS = (*HUB_FIELDS, "permissive", "purpose", "domain", "notes")


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


@dataclass(frozen=True)
class CatalogEntry:
    """The description of a corpus in a catalog."""

    name: str
    dataset: str
    revision: str | None
    split: str
    subset: str | None
    columns: dict[str, str]
    tasks: tuple[str, ...]
    roles: dict[str, str]
    splits: dict[str, str]
    licence: str
    permissive: bool
    purpose: Purpose
    domain: str
    notes: str


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
    return {name: _entry(f"{path}, entry {name!r}", name, fields) for name, fields in entries.items()}


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


def _entry(where: str, name: str, fields: object) -> CatalogEntry:
    if not isinstance(fields, dict):
        raise SourceError(f"{where}: expected fields, got {fields!r}")
    unknown, missing = sorted(set(fields) - set(FIELDS)), sorted({"dataset", "licence", "purpose"} - set(fields))
    if unknown or missing:
        raise SourceError(f"{where}: unknown fields {unknown}, missing fields {missing}; known: {list(FIELDS)}")
    if fields["purpose"] not in get_args(Purpose):
        raise SourceError(f"{where}: purpose must be one of {get_args(Purpose)}, got {fields['purpose']!r}")
    return CatalogEntry(
        name=name,
        dataset=fields["dataset"],
        revision=fields.get("revision"),
        split=fields.get("split", "train"),
        subset=fields.get("subset"),
        columns=fields.get("columns") or {},
        tasks=tuple(fields.get("tasks") or ()),
        roles=fields.get("roles") or {},
        splits=fields.get("splits") or {},
        licence=fields["licence"],
        permissive=bool(fields.get("permissive", False)),
        purpose=fields["purpose"],
        domain=fields.get("domain", ""),
        notes=fields.get("notes", ""),
    )
