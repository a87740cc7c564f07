"""Checks of sources: names, files, and whether there are documents to train on."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from analysis.sources.hub import HUB_ID, HubSource
from pipelines.checks.configured_run import ConfiguredRun
from pipelines.checks.problem import AnyProblem, Problem, Refusal, listed, unknown_names
from pipelines.corpus.sources import (
    CatalogConfig,
    FilesConfig,
    HubConfig,
    PackagesConfig,
    SourceConfig,
    expanded,
    to_source,
)

if TYPE_CHECKING:
    from analysis.sources.catalog import Purpose


def problems(run: ConfiguredRun) -> Iterator[AnyProblem]:
    """Problems of all sources that the run reads."""
    if raw := run.configs.get("raw_documents"):
        field = "ops.raw_documents.config.sources"
        yield from _of_sources(raw.sources, field, "train", must_exist=raw.on_error == "raise")
        if raw.sources and all(is_held_out(source.read) for source in raw.sources):
            yield Problem(
                field, "a source with documents to train on", [_split(source.read) for source in raw.sources], HELD_OUT
            )
    if corpus := run.configs.get("corpus_documents"):
        if corpus.evaluation_sets and not corpus.decontaminate:
            advice = "They are read to leave their texts out of the corpus. Leave one of them out."
            name = "ops.corpus_documents.config.decontaminate"
            yield Problem(name, "true with evaluation_sets", False, advice)
        yield from _of_sources(corpus.evaluation_sets, "ops.corpus_documents.config.evaluation_sets", "evaluation")
    if new := run.configs.get("new_document_labels"):
        yield from _of_sources(new.sources, "ops.new_document_labels.config.sources", "train")


HELD_OUT = "Documents of these splits are held out and never trained on. Leave `split` out, or set it to train."


def _of_sources(
    sources: Sequence[SourceConfig], field: str, purpose: "Purpose", *, must_exist: bool = True
) -> Iterator[AnyProblem]:
    if not sources and purpose == "train":
        yield Problem(field, "at least one source", [], "Each has a name, and under `read` a kind.")
    yield from names(sources, field)
    for i, source in enumerate(sources):
        yield from _of_source(source.read, f"{field}[{i}].read", purpose, must_exist)


def names(sources: Sequence[Any], field: str) -> Iterator[AnyProblem]:
    """Check that readers of tables and figures can distinguish the names."""
    for i, source in enumerate(sources):
        if not _seen(source.name) or not is_text(source.name):
            yield Problem(f"{field}[{i}].name", "a name", source.name, "Tables and figures tell sources apart by it.")
    all_names = [name for source in sources for name in source_names(source)]
    for seen, count in Counter(map(_seen, all_names)).items():
        if count > 1:
            alike = list(dict.fromkeys(name for name in all_names if _seen(name) == seen))
            advice = f"{count} sources have it. Give each its own, or put the files under `paths` of one source."
            got: object = alike[0]
            if len(alike) > 1:
                got, advice = alike, "They look the same in tables. Give them different names."
            yield Problem(field, "a different name for each source", got, advice)


def is_text(value: str) -> bool:
    """Whether UTF-8 can encode it; YAML and JSON can contain half a character (`"\\ud800"`)."""
    return not any("\ud800" <= char <= "\udfff" for char in value)


def _seen(name: str) -> str:
    """The visible form of a name: composed characters, without invisible ones and outer blanks."""
    visible = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    return " ".join(visible.split())


def source_names(source: SourceConfig) -> list[str]:
    """Possible values of the documents' `source`: packages give one source per task."""
    if not isinstance(source.read, PackagesConfig):
        return [source.name]
    return [f"{source.name}/{task}" for task in dict.fromkeys(source.read.tasks or _harvesters())]


def _harvesters() -> list[str]:
    from analysis.sources.packages import HARVESTERS

    return list(HARVESTERS)


def _of_source(read: Any, field: str, purpose: "Purpose", must_exist: bool) -> Iterator[AnyProblem]:
    found: list[AnyProblem] = []
    match read:
        case PackagesConfig():
            found += _packages(read, f"{field}.packages")
        case FilesConfig():
            found += files(read, f"{field}.files", must_exist)
        case HubConfig():
            found += _hub(read, f"{field}.hub", must_exist)
        case CatalogConfig():
            found += _catalog(read, f"{field}.catalog", purpose) if must_exist else ()
    yield from found or refused(read, f"{field}.{read.kind}", purpose, pinned=must_exist)


def refused(read: Any, field: str, purpose: "Purpose" = "train", *, pinned: bool = False) -> Iterator[AnyProblem]:
    """What `analysis.sources` refuses of a source, such as its roles and its revision."""
    try:
        source = to_source(read, purpose)
        if pinned and isinstance(source, HubSource):
            source.check_pinned()
    except dg.Failure as error:
        yield Refusal(field, str(error.description))
    except ValueError as error:
        yield Refusal(field, f"{error}.")


def _packages(read: PackagesConfig, field: str) -> Iterator[AnyProblem]:
    yield from unknown_names(f"{field}.tasks", "task", read.tasks, _harvesters())
    for name in read.distributions:
        try:
            metadata.distribution(name)
        except (metadata.PackageNotFoundError, ValueError):
            advice = "Install it, or name others."
            yield Problem(f"{field}.distributions", "installed distributions", name, advice)


def files(read: FilesConfig, field: str, must_exist: bool, *, urls: bool = False) -> Iterator[AnyProblem]:
    """Paths and split of a source of files.

    Args:
        urls: whether paths may be URLs, which are not checked here.
    """
    if not read.paths:
        yield Problem(f"{field}.paths", "at least one file or glob", [])
    if read.split is not None and _side(read) is None:
        from analysis.sources.splits import TEST_NAMES, TRAIN_NAMES

        advice = "Only train is trained on. Leave it out, and some documents of each source are held out."
        yield Problem(f"{field}.split", f"one of {listed(TRAIN_NAMES + TEST_NAMES)}", read.split, advice)
    for path, count in Counter[str](read.paths).items():
        if count > 1:
            yield Problem(f"{field}.paths", "each path once", path, f"It is there {count} times.")
    for i, path in enumerate(read.paths):
        if "://" not in path:
            yield from _path(path, f"{field}.paths[{i}]", must_exist)
        elif not urls:
            yield Problem(f"{field}.paths[{i}]", "a file of this machine", path, "The job sharded reads URLs.")


def _path(path: str, field: str, must_exist: bool) -> Iterator[AnyProblem]:
    from analysis.sources import matching_files
    from analysis.sources.files import SUFFIXES, format_of

    if not path.strip() or "\0" in path or not is_text(path):
        yield Problem(field, "a file or a glob", path)
        return
    try:
        full = expanded(path)
    except dg.Failure as error:
        yield Refusal(field, str(error.description))
        return
    if not must_exist:
        return
    try:
        found = matching_files(full)
        is_folder = not found and Path(full).expanduser().is_dir()
    except (OSError, RuntimeError) as error:  # the name is too long, or `~user` does not exist
        yield Problem(field, "a file", path, f"{getattr(error, 'strerror', None) or error}.".replace("..", "."))
        return
    if not found:
        what = "It is a folder: name its files, such as folder/*.jsonl." if is_folder else f"Looked from {Path.cwd()}."
        yield Problem(field, "a file", path, what)
    for file in found:
        if not os.access(file, os.R_OK):
            yield Problem(field, "a file that can be read", str(file), "This user may not read it.")
        elif format_of(file) not in SUFFIXES:
            yield Problem(field, f"a file with one of the suffixes {listed(SUFFIXES)}", str(file))
        elif file.stat().st_size == 0:
            yield Problem(field, "a file with records", str(file), "It is empty.")


def _hub(read: HubConfig, field: str, must_exist: bool) -> Iterator[AnyProblem]:
    if not read.dataset.strip():
        yield Problem(f"{field}.dataset", "an id on the hub, or a folder", read.dataset)
    elif must_exist and not Path(read.dataset).is_dir() and not HUB_ID.fullmatch(read.dataset):
        what = "an id on the hub (owner/name), or a folder that exists"
        yield Problem(f"{field}.dataset", what, read.dataset, f"Looked from {Path.cwd()}.")
    if not read.split.strip():
        yield Problem(f"{field}.split", "the name of a split", read.split)


def _catalog(read: CatalogConfig, field: str, purpose: "Purpose") -> Iterator[AnyProblem]:
    from analysis.sources import SourceError, load_catalog

    try:
        catalog = load_catalog(read.file)
    except SourceError as error:
        yield Refusal(f"{field}.file", f"{error}.")
        return
    unknown = list(unknown_names(f"{field}.entry", "entry", [read.entry], catalog))
    yield from unknown
    if unknown:
        return
    entry = catalog[read.entry]
    if entry.purpose == "evaluation" and purpose == "train":
        advice = "Training on it would spoil every result on it."
        yield Problem(f"{field}.entry", "an entry to train on", read.entry, advice)
    if entry.revision is None and not Path(entry.dataset).is_dir():
        advice = "Put a commit into a copy of the catalog, and name the copy under `file`."
        yield Problem(f"{field}.entry", "an entry with a revision", read.entry, advice)


def _split(read: Any) -> str | None:
    return read.split if isinstance(read, FilesConfig | HubConfig) else None


def is_held_out(read: Any) -> bool:
    """Whether all documents of a source are held out."""
    return isinstance(read, FilesConfig | HubConfig) and read.split is not None and _side(read) == "test"


def _side(read: FilesConfig | HubConfig) -> str | None:
    from analysis.sources.splits import side_of

    return side_of(read.split or "", read.splits)
