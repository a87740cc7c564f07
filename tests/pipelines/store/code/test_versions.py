"""Code versions: every asset's follows the modules that it reaches, and no others."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.definitions import defs
from pipelines.store.code import versions
from pipelines.store.code.source_files import PROJECT
from pipelines.store.code.versions import code_version, reached_modules

ROOT = Path(__file__).parents[4]


def asset_modules() -> list[str]:
    """The module of each asset: where its code version starts."""
    folder = ROOT / "pipelines" / "defs"
    paths = [path for path in folder.rglob("*.py") if path.name != "__init__.py"]
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)


def project_modules(root: Path) -> dict[str, Path]:
    files = [path for package in PROJECT for path in (root / package).rglob("*.py")]
    names = {path: path.relative_to(root).with_suffix("").parts for path in files}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in names.items()}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    for package in PROJECT:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def test_every_asset_has_the_version_of_its_module() -> None:
    expected = {code_version(module) for module in asset_modules()}
    assert {spec.code_version for spec in defs.resolve_all_asset_specs()} == expected


def test_a_changed_module_changes_the_assets_that_reach_it_and_no_others(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The imports stay as they are, so that they are read once; bytes are read for each module.
    reached = {asset: reached_modules(asset) for asset in asset_modules()}
    modules = project_modules(copy)
    monkeypatch.setattr(versions, "_source", modules.get)
    monkeypatch.setattr(versions, "at_start", Path.read_bytes)
    monkeypatch.setattr(versions, "reached_modules", reached.__getitem__)
    fresh = versions.code_version.__wrapped__
    before = {asset: fresh(asset) for asset in reached}
    for name, path in modules.items():
        text = path.read_bytes()
        path.write_bytes(text + b"# another line\n")
        reaching = next((asset for asset in reached if name in reached[asset]), None)
        others = next((asset for asset in reached if name not in reached[asset]), None)
        assert reaching is None or fresh(reaching) != before[reaching], (name, reaching)
        assert others is None or fresh(others) == before[others], (name, others)
        path.write_bytes(text)


def test_no_module_runs_that_does_not_count() -> None:
    # What an interpreter really loads, beside what the sources say.
    code = "import importlib, sys; importlib.import_module(sys.argv[1]); print(*sys.modules)"
    for asset in ("pipelines.defs.clusters.cluster_sweep", "pipelines.defs.results.report"):
        output = subprocess.run([sys.executable, "-c", code, asset], capture_output=True, text=True, check=True).stdout
        # A declaration is loaded from its file: the name of who loads it, and that of the module.
        names = (module.rsplit(":", 1)[-1] for module in output.split())
        loaded = {module for module in names if module.split(".")[0] in PROJECT}
        assert loaded <= reached_modules(asset)


def test_what_is_imported_counts_also_inside_functions_and_not_for_type_checkers(tmp_path: Path) -> None:
    reached = reached_modules("pipelines.defs.clusters.cluster_sweep")
    assert "analysis.clusters.kmeans" in reached  # imported in the body
    assert "analysis.clusters.kmeans._kernels" in reached  # by kmeans
    assert "pipelines.store.code.versions" in reached
    assert not any(module.startswith("hydralora") for module in reached)
    # `CorpusModel` is named in an annotation there, and imported in the body of another module.
    assert "pipelines.defs.clusters.cluster_labels" not in reached


def test_templates_of_a_package_count() -> None:
    assert {path.suffix for path in versions._files("analysis.report")} == {".py", ".j2", ".css", ".js"}


def test_an_unknown_module_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"got 'pipelines\.nothing'"):
        code_version("pipelines.nothing")
