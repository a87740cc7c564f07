"""Which distributions are harvested: those named, or everything this project's `pipelines` extra pulls in."""

from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from analysis.sources.packages.package import Package
from analysis.sources.records import SourceError

PROJECT = "hydralora"
EXTRA = "pipelines"


def installed_packages(names: tuple[str, ...]) -> Iterator[Package]:
    """Installed distributions, sorted by name; one that is not installed is left out.

    Raises:
        SourceError: none is installed.
    """
    wanted = sorted({canonicalize_name(name) for name in names} if names else required_by(PROJECT, EXTRA) - {PROJECT})
    found = 0
    for name in wanted:
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found += 1
        yield Package.of(distribution)
    if not found:
        raise SourceError(
            f"none of the distributions {wanted[:5]} is installed. Name installed ones under `distributions`, or "
            f"install this project with `pip install -e .[{EXTRA}]`"
        )


def required_by(project: str, extra: str) -> set[str]:
    """Canonical names of the installed distributions that a project with an extra requires, directly or not."""
    seen: dict[str, set[str]] = {}
    waiting = [(canonicalize_name(project), extra)]
    while waiting:
        name, extra = waiting.pop()
        if extra in seen.setdefault(name, set()):
            continue
        seen[name].add(extra)
        for requirement in map(Requirement, _requirements(name)):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), inner) for inner in {"", *requirement.extras}]
    return {name for name in seen if _is_installed(name)}


def _requirements(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
