"""What `dg scaffold defs pipelines.components.ConfiguredJob NAME` writes loads as it is."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import dagster as dg
import pytest
import yaml

from pipelines.components import ConfiguredJob
from pipelines.components.scaffolding import EXAMPLE, JobScaffolder, Parameters
from pipelines.definitions import build_defs

ROOT = Path(__file__).parents[3]


def scaffold(folder: Path, **options: Any) -> dict[str, Any]:
    """The attributes that are written."""
    folder.mkdir()
    type_name = "pipelines.components.ConfiguredJob"
    JobScaffolder().scaffold(dg.ScaffoldRequest(type_name, folder, "yaml", None, Parameters(**options), append=False))
    attributes: dict[str, Any] = yaml.safe_load((folder / "defs.yaml").read_text())["attributes"]
    return attributes


def job_of(folder: Path, attributes: dict[str, Any]) -> dg.JobDefinition:
    path = str(folder / attributes["configuration"])
    component = ConfiguredJob(**{**attributes, "configuration": path})
    own = component.build_defs(dg.ComponentTree.for_test().load_context)
    return dg.Definitions.merge(build_defs(), own).resolve_job_def(attributes["name"])


def test_without_a_configuration_it_gets_one_to_edit(tmp_path: Path) -> None:
    attributes = scaffold(tmp_path / "my-corpus")
    assert (attributes["name"], attributes["job"], attributes["automatic"]) == ("my_corpus", "hydralora", False)
    configuration = job_of(tmp_path / "my-corpus", attributes).run_config
    assert configuration is not None
    assert configuration["resources"]["store"]["config"]["directory"] == "outputs/my_corpus"
    assert "quickstart" not in (tmp_path / "my-corpus" / "run.yaml").read_text()


def test_another_job_takes_its_part_of_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(EXAMPLE.read_text())
    attributes = scaffold(tmp_path / "own", configuration=str(tmp_path / "mine.yaml"), job="corpus")
    assert attributes["configuration"] == "../mine.yaml"
    configuration = job_of(tmp_path / "own", attributes).run_config
    assert configuration is not None
    assert "raw_documents" in configuration["ops"]
    assert "hydralora_adapter" not in configuration["ops"]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("study", {}, "expected --job among"),
        ("mine", {"job": "nothing"}, "expected --job among"),
        ("mine", {"configuration": "nowhere.yaml"}, "--configuration: expected a file"),
    ],
)
def test_a_wrong_option_leaves_nothing_behind(
    tmp_path: Path, name: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(click.ClickException, match=sentence):
        scaffold(tmp_path / name, **options)
    assert not (tmp_path / name).exists()


@pytest.mark.slow
def test_the_command_in_the_project() -> None:
    folder = ROOT / "pipelines" / "corpora" / "scaffolded_by_a_test"
    dg_command = [str(Path(sys.executable).with_name("dg"))]
    try:
        made = [*dg_command, "scaffold", "defs", "pipelines.components.ConfiguredJob", folder.name]
        subprocess.run(made, cwd=ROOT, check=True, capture_output=True)
        listed = subprocess.run([*dg_command, "list", "defs"], cwd=ROOT, check=True, capture_output=True, text=True)
        assert folder.name in listed.stdout
    finally:
        for path in folder.glob("*"):
            path.unlink()
        folder.rmdir()
