"""The shape of the tree: what a wheel contains, how large a folder is, where the tests of a module are."""

import ast
import re
import tomllib
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from pipelines.store.code.versions import reached_modules

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"\b(?:analysis|hydralora|pipelines)(?:\.\w+)*")
PACKAGES = ("analysis", "hydralora", "pipelines")
FOLDERS = sorted(path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py"))
MODULES = sorted(
    str(path.relative_to(ROOT)) for folder in FOLDERS for path in folder.glob("*.py") if path.name != "__init__.py"
)

COMMAND = "tested as it is run: by its command"
TOGETHER = "parts of one computation, tested with the whole of it"
DECLARES = "declares names and values; what they do is tested where they are used"
AS_A_USER = "tested as its users meet it, through the door of its folder"
JOB = "an asset is tested in the job that makes it"
TESTED_ELSEWHERE: dict[str, tuple[str, str]] = {
    "analysis/adapters/pairs.py": (TOGETHER, "analysis/adapters/test_breakdown.py"),
    "analysis/answer/analysis.py": (TOGETHER, "analysis/answer/test_analyze.py"),
    "analysis/atomic_files.py": (TOGETHER, "analysis/clusters/test_corpus_model.py"),
    "analysis/clusters/description.py": (TOGETHER, "analysis/answer/test_analyze.py"),
    "analysis/clusters/kmeans/*": (TOGETHER, "analysis/clusters/test_kmeans.py"),
    "analysis/clusters/choice/resampling.py": (TOGETHER, "analysis/answer/test_analyze.py"),
    "analysis/corpus/*": (TOGETHER, "analysis/corpus/test_cleaning.py"),
    "analysis/corpus/document_text.py": (TOGETHER, "analysis/clusters/test_assignment.py"),
    "analysis/engine/*": (TOGETHER, "analysis/engine/test_engines.py"),
    "analysis/experts/agreement.py": (TOGETHER, "analysis/experts/test_prompt_classifier.py"),
    "analysis/experts/prompt_gates.py": (TOGETHER, "analysis/experts/test_prompt_classifier.py"),
    "analysis/features/*": (TOGETHER, "analysis/features/test_lsa.py"),
    "analysis/figures/*": (AS_A_USER, "analysis/figures"),
    "analysis/methods/paper.py": (DECLARES, "analysis/methods/test_paper_tables.py"),
    "analysis/prompt_gates.py": (DECLARES, "analysis/test_public_names.py"),
    "analysis/report/*": (AS_A_USER, "analysis/report"),
    "analysis/shards/*": (TOGETHER, "analysis/shards/test_sharded_corpus.py"),
    "analysis/sources/*": (AS_A_USER, "analysis/sources"),
    "analysis/text/*": (TOGETHER, "analysis/text"),
    "hydralora/adapter/*": (TOGETHER, "hydralora/adapter/test_layer.py"),
    "hydralora/base_model/embedded.py": (AS_A_USER, "hydralora/base_model/test_loading.py"),
    "hydralora/data/template.py": (TOGETHER, "hydralora/data/test_documents.py"),
    "hydralora/gates/*": (TOGETHER, "hydralora/gates"),
    "hydralora/harness/*": (AS_A_USER, "hydralora/harness"),
    "hydralora/methods/factories.py": (TOGETHER, "hydralora/methods/test_table.py"),
    "hydralora/ops/t*.py": (TOGETHER, "hydralora/ops/test_triton.py"),
    "hydralora/training/*": (TOGETHER, "hydralora/training"),
    "pipelines/check.py": (COMMAND, "pipelines/test_bad_inputs.py"),
    "pipelines/checks/*": (AS_A_USER, "pipelines/test_bad_inputs.py"),
    "pipelines/cli/*": (COMMAND, "pipelines/cli/test_commands.py"),
    "pipelines/components/changes.py": (TOGETHER, "pipelines/components/test_configured_job.py"),
    "pipelines/corpus/*": (JOB, "pipelines/defs"),
    "pipelines/defs/*": (JOB, "pipelines/defs"),
    "pipelines/defs/shards/*": (JOB, "pipelines/engine/test_sharded_job.py"),
    "pipelines/engine/driver.py": (JOB, "pipelines/engine/test_sharded_job.py"),
    "pipelines/engine/resource.py": (JOB, "pipelines/engine/test_sharded_job.py"),
    "pipelines/jobs.py": (DECLARES, "pipelines/test_definitions.py"),
    "pipelines/report/inputs.py": (JOB, "pipelines/defs/test_report_of_runs.py"),
    "pipelines/run*.py": (COMMAND, "test_documented_commands.py"),
    "pipelines/sensors/dead_runs.py": (TOGETHER, "pipelines/test_home.py"),
    "pipelines/serving/*": (AS_A_USER, "pipelines/serving"),
    "pipelines/store/__main__.py": (COMMAND, "pipelines/store/test_cleaning.py"),
    "pipelines/store/*": (JOB, "pipelines/defs"),
    "pipelines/study/*": (JOB, "pipelines/defs/test_study_job.py"),
    "pipelines/summary.py": (COMMAND, "test_documented_commands.py"),
    "pipelines/training/*": (JOB, "pipelines/defs"),
}
"""Modules without a test file at their place in `tests` -> why, and the tests that have them."""


def test_a_wheel_has_every_module() -> None:
    modules = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert modules == set(FOLDERS), "setuptools finds folders with an __init__.py"
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert all(list((ROOT / package).glob(pattern)) for package, patterns in data.items() for pattern in patterns)


def test_a_folder_has_at_most_twelve_modules() -> None:
    sizes = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in FOLDERS}
    assert {name: size for name, size in sizes.items() if size > 12} == {}


def dotted(module: str) -> str:
    return module.removesuffix(".py").replace("/", ".")


def mirror_of(module: str) -> Path:
    path = Path(module)
    return ROOT / "tests" / path.parent / f"test_{path.stem.strip('_')}.py"


WITHOUT_A_MIRROR = [module for module in MODULES if not mirror_of(module).exists()]


def row_of(module: str) -> str | None:
    """The row of a module: its longest pattern."""
    return max((pattern for pattern in TESTED_ELSEWHERE if fnmatch(module, pattern)), key=len, default=None)


def test_every_module_has_its_tests_at_its_place_or_in_the_table() -> None:
    assert [module for module in WITHOUT_A_MIRROR if row_of(module) is None] == []


@pytest.mark.parametrize("pattern", TESTED_ELSEWHERE)
def test_what_has_no_test_file_at_its_place_is_reached_by_the_tests_that_have_it(pattern: str) -> None:
    named = [module for module in WITHOUT_A_MIRROR if row_of(module) == pattern]
    assert named, "no module needs this row"
    place = ROOT / "tests" / TESTED_ELSEWHERE[pattern][1]
    reached: set[str] = set()
    for test in [place] if place.suffix else sorted(place.rglob("test_*.py")):
        reached |= reached_by(test)
    assert [module for module in named if dotted(module) not in reached] == []


@cache
def reached_by(test: Path) -> frozenset[str]:
    """Modules of the project that a test reaches by its imports, and by the command that it runs."""
    reached: set[str] = set()
    for node in ast.walk(ast.parse(test.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            helper = ROOT / f"{node.module.replace('.', '/')}.py"
            if node.module.startswith("tests.") and helper.exists():
                reached |= reached_by(helper)
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [*NAME.findall(node.value), f"{node.value}.__main__"]  # `-m pipelines.store`
        else:
            continue
        for name in names:
            if name.split(".")[0] in PACKAGES and all(part.isidentifier() for part in name.split(".")):
                reached |= reached_modules(name)
    if "pipelines.definitions" in reached:  # which loads the assets by their folders
        assets = [name for name in MODULES if name.startswith("pipelines/defs/")]
        reached |= {found for asset in assets for found in reached_modules(dotted(asset))}
    return frozenset(reached)
