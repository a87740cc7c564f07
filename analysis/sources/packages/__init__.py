"""Source kind `packages`: instruction pairs harvested from installed Python packages.

A default corpus that needs no download and redistributes nothing: documentation, code and licences that every
installation of this project already has. No harvested package is imported.
"""

import gc
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import polars as pl

from analysis.sources.packages import code, doctests, licences, readmes
from analysis.sources.packages.distributions import installed_packages
from analysis.sources.packages.package import Package, Pair, stable_order
from analysis.sources.records import RECORD_SCHEMA, SourceError

Harvester = Callable[[Package], Iterator[Pair]]
Record = dict[str, str | None]

HARVESTERS: Mapping[str, Harvester] = {
    "code": code.harvest_code,
    "docstring": code.harvest_docstrings,
    "doctest": doctests.harvest,
    "licence": licences.harvest,
    "readme": readmes.harvest,
}

MAX_PROMPT = 1_200
MAX_COMPLETION = 500
PACKAGE_SHARE = 0.25
"""Largest share of a task that one distribution may fill, unless few distributions have the task."""


@dataclass(frozen=True)
class PackagesSource:
    """Instruction pairs from installed packages.

    Args:
        distributions: names on the package index; empty: everything that this project's `pipelines` extra pulls in.
        tasks: which of `HARVESTERS`; empty: all.
        max_documents_per_task: largest number of documents of a task, chosen by a hash of the text.
    """

    distributions: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    max_documents_per_task: int = field(default=1_200, metadata={"ge": 1})

    def __post_init__(self) -> None:
        unknown = sorted(set(self.tasks) - set(HARVESTERS))
        if unknown:
            raise SourceError(f"unknown tasks {unknown}; expected some of {list(HARVESTERS)}")
        if self.max_documents_per_task < 1:
            raise SourceError(f"max_documents_per_task must be at least 1, got {self.max_documents_per_task}")


def read_packages(name: str, config: PackagesSource) -> pl.LazyFrame:
    """Records with the sources `<name>/<task>`; the same for the same versions of the distributions.

    Raises:
        SourceError: none of the distributions is installed, or they hold nothing of the tasks.
    """
    found: dict[str, list[tuple[str, Record]]] = defaultdict(list)
    with _uncollected():
        for package in installed_packages(config.distributions):
            for task in config.tasks or HARVESTERS:
                found[task].extend((package.name, record) for record in _records(name, task, package))
    rows = [row for task in sorted(found) for row in _choose(found[task], config.max_documents_per_task)]
    if not rows:
        raise SourceError("the installed packages hold nothing of these tasks; name other distributions")
    return pl.from_dicts(rows, schema=RECORD_SCHEMA).lazy()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection, which would walk all syntax trees again and again and take twice as long as
    parsing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _records(name: str, task: str, package: Package) -> Iterator[Record]:
    origin = f"{package.name} {package.version}"
    for pair in HARVESTERS[task](package):
        if 0 < len(pair.prompt) <= MAX_PROMPT and 0 < len(pair.completion) <= MAX_COMPLETION:
            yield {
                "source": f"{name}/{task}",
                "task": pair.task,
                "split": None,
                "prompt": pair.prompt,
                "completion": pair.completion,
                "licence": package.licence,
                "origin": f"{origin}: {pair.path}",
            }


def _choose(candidates: list[tuple[str, Record]], limit: int) -> list[Record]:
    """At most `limit` different records in a stable shuffled order, with no distribution taking all of it."""
    share = max(int(limit * PACKAGE_SHARE), limit // max(len({package for package, _ in candidates}), 1))
    taken: Counter[str] = Counter()
    chosen: list[Record] = []
    by_text = {f"{record['prompt']}\0{record['completion']}": (package, record) for package, record in candidates}
    for text in sorted(by_text, key=stable_order):
        package, record = by_text[text]
        if taken[package] < share and len(chosen) < limit:
            taken[package] += 1
            chosen.append(record)
    return chosen


__all__ = ["HARVESTERS", "PackagesSource", "read_packages"]
