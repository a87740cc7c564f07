"""The shape of the tree: what a wheel contains, how large a folder is."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("analysis", "hydralora", "pipelines")
FOLDERS = sorted(path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py"))


def test_a_wheel_has_every_package() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert listed == sorted(["analysis.data", *(".".join(folder.relative_to(ROOT).parts) for folder in FOLDERS)])


def test_a_folder_has_at_most_twelve_modules() -> None:
    sizes = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in FOLDERS}
    assert {name: size for name, size in sizes.items() if size > 12} == {}
