"""A result never belongs to code that did not make it: sources and inputs that change meanwhile are refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from pipelines.definitions import build_defs
from pipelines.store.code.source_files import PROJECT

ROOT = Path(__file__).parents[4]
EDIT = "from pathlib import Path\ndef edit(name): path = Path(name); path.write_text(path.read_text() + '\\n# new')\n"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    for package in PROJECT:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "configs"))
    return root


def said(copy: Path, code: str) -> str:
    """What a process says that runs in the copied sources."""
    process = subprocess.run([sys.executable, "-c", EDIT + code], cwd=copy, capture_output=True, text=True, check=False)
    return process.stdout + process.stderr


def test_a_module_edited_after_the_start_is_not_imported(copy: Path) -> None:
    code = "import pipelines\nedit('analysis/text/sampling.py')\nimport analysis.text.sampling"
    text = said(copy, code)
    assert "SourceChangedError" in text
    assert str(copy / "analysis" / "text" / "sampling.py") in text
    assert "Run again" in text


def test_a_file_that_takes_the_place_of_a_module_is_not_imported(copy: Path) -> None:
    folder = "analysis/text/terms_of_old"
    code = f"import pipelines\nimport os\nos.mkdir('{folder}')\nPath('{folder}/__init__.py').write_text('')\n"
    assert "SourceChangedError" in said(copy, code + "import analysis.text.terms_of_old")


def test_a_module_edited_after_its_import_and_one_edited_back_do_no_harm(copy: Path) -> None:
    code = (
        "import pipelines, analysis.text.blocks\n"
        "edit('analysis/text/blocks.py')\n"
        "import analysis.text.blocks\n"
        "path = Path('analysis/text/terms/stop_words.py'); old = path.read_text()\n"
        "path.write_text('raise SystemExit')\n"
        "path.write_text(old)\n"
        "import analysis.text.terms.stop_words\n"
        "print('fine')"
    )
    assert said(copy, code) == "fine\n"


def test_the_version_is_of_the_code_at_the_start(copy: Path) -> None:
    name = "pipelines.corpus.features"
    code = (
        "from pipelines.store.code.versions import code_version\n"
        "edit('pipelines/corpus/features.py')\n"
        f"print(code_version({name!r}))\n"
    )
    plain = f"from pipelines.store.code.versions import code_version\nprint(code_version({name!r}))"
    before, while_edited, after = said(copy, plain), said(copy, code), said(copy, plain)
    assert while_edited == before != after


def test_an_edited_template_is_noticed(copy: Path) -> None:
    template = next((copy / "analysis" / "report").glob("*.j2")).relative_to(copy)
    code = (
        "from pipelines.store.code.versions import check_data_files\n"
        f"edit({str(template)!r})\n"
        "check_data_files('analysis.report')"
    )
    assert f"{template} was edited" in said(copy, code)


def test_a_child_with_other_code_than_its_parent_is_refused(copy: Path) -> None:
    code = "from pipelines.store.code.versions import check_version\ncheck_version('analysis.text.blocks', 'other')"
    text = said(copy, code)
    assert "SourceChangedError" in text
    assert "expected version other" in text


def test_a_file_that_changes_between_its_fingerprint_and_the_end_of_reading_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analysis import sources

    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "one", "completion": "two"}) + "\n")
    read = sources.read_sources

    def read_and_edit(*values: object, **more: object) -> object:
        result = read(*values, **more)
        path.write_text(json.dumps({"prompt": "three", "completion": "four"}) + "\n")
        return result

    monkeypatch.setattr(sources, "read_sources", read_and_edit)
    defs = build_defs()
    config = {"sources": [{"name": "a", "read": {"files": {"paths": [str(path)]}}}]}
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("corpus").execute_in_process(
            run_config={
                "ops": {"raw_documents": {"config": config}},
                "resources": {
                    "store": {"config": {"directory": str(tmp_path / "store")}},
                    "run_checks": {"config": {"enabled": False}},
                },
            },
            asset_selection=[dg.AssetKey("raw_documents")],
            instance=instance,
            raise_on_error=False,
        )
    assert not result.success
    text = str(result.all_events)
    assert str(path) in text
    assert "changed while it was read" in text
    assert not list((tmp_path / "store").glob("raw_documents/*/artifact.json"))


def test_a_base_model_is_known_by_the_content_of_its_folder(tmp_path: Path) -> None:
    from pipelines.training.recipe import BaseModel

    (tmp_path / "model.safetensors").write_bytes(b"one")
    model = BaseModel(name=str(tmp_path))
    before = model.identity()
    assert model.identity() == before
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert model.identity() != before
    assert "base_files" not in BaseModel().identity()
