"""The files of `docker/` as far as they can be checked without Docker: nothing is started."""

from pathlib import Path

import pytest
import yaml
from dagster._core.instance.ref import InstanceRef

from pipelines import home

FOLDER = Path(__file__).parents[2] / "docker"


def test_services_volumes_and_files_are_there() -> None:
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        assert set(service.get("depends_on", {})) <= set(compose["services"]), name
        mounts = [mount.partition(":")[0] for mount in service["volumes"]] if "volumes" in service else []
        assert {mount for mount in mounts if mount.isalpha()} <= set(compose["volumes"]), name
        if "-w" in service.get("command", []):
            assert (FOLDER.parent / service["command"][-1]).is_file()
    assert (FOLDER / compose["services"]["web"]["build"]["context"] / "docker" / "Dockerfile").is_file()
    server = yaml.safe_load((FOLDER / "workspace.yaml").read_text())["load_from"][0]["grpc_server"]
    assert compose["services"][server["host"]]["command"][-3:] == [str(server["port"]), "-m", "pipelines.definitions"]


def test_the_instance_is_the_local_one_with_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql+psycopg2://a:b@localhost/c")
    ours, local = (yaml.safe_load(path.read_text()) for path in (FOLDER / "dagster.yaml", home.SETTINGS))
    storage = ours.pop("storage")
    assert ours == local
    reference = InstanceRef.from_dir(str(tmp_path), config_dir=str(FOLDER))
    assert reference.storage_data is not None
    assert (reference.storage_data.class_name, list(storage)) == ("DagsterPostgresStorage", ["postgres"])
