"""The shape of the tree: what a wheel contains, how large a folder is."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("analysis", "hydralora", "pipelines")
FOLDERS = sorted(path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py"))


def test_a_wheel_has_every_module() -> None:
    modules = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert modules == set(FOLDERS), "setuptools finds folders with an __init__.py"
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert all(list((ROOT / package).glob(pattern)) for package, patterns in data.items() for pattern in patterns)


def test_a_folder_has_at_most_twelve_modules() -> None:
    sizes = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in FOLDERS}
    assert {name: size for name, size in sizes.items() if size > 12} == {}
