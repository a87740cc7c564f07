"""Artifacts: same identity same folder, killed builds resume, nothing half-written, clear errors."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.store.artifacts import Artifact, ArtifactError, Draft, build_artifact
from pipelines.store.files.disk import DiskFullError


def build(directory: Path, number: int, calls: list[str], inputs: dict[str, Artifact] | None = None) -> Artifact:
    def write(draft: Draft) -> None:
        calls.append(draft.fingerprint)
        draft.write_table("numbers", pl.DataFrame({"x": [number]}))
        draft.write_array("values", np.arange(number))

    return build_artifact(
        directory, "numbers", code_version="1", config={"number": number}, inputs=inputs or {}, build=write
    )


def test_second_build_of_the_same_identity_does_no_work(tmp_path: Path) -> None:
    calls: list[str] = []
    first, second = build(tmp_path, 3, calls), build(tmp_path, 3, calls)
    assert len(calls) == 1
    assert (first.reused, second.reused) == (False, True)
    assert first.fingerprint == second.fingerprint
    assert second.read("numbers")["x"].to_list() == [3]
    assert second.array("values").tolist() == [0, 1, 2]


def test_another_user_may_read_every_file(tmp_path: Path) -> None:
    def write(draft: Draft) -> None:
        (draft.folder / "adapter").mkdir()
        path = draft.folder / "adapter" / "weights.safetensors"
        path.touch(mode=0o600)  # as safetensors does

    made = build_artifact(tmp_path, "a", code_version="1", config={}, inputs={}, build=write)
    umask = os.umask(0)
    os.umask(umask)
    assert (made.folder / "adapter" / "weights.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_config_and_inputs_change_the_fingerprint(tmp_path: Path) -> None:
    three, four = build(tmp_path, 3, []), build(tmp_path, 4, [])
    on_three, on_four = build(tmp_path, 5, [], {"upstream": three}), build(tmp_path, 5, [], {"upstream": four})
    assert len({a.fingerprint for a in (three, four, on_three, on_four)}) == 4


def test_failed_build_leaves_no_finished_folder_and_the_next_one_finds_its_files(tmp_path: Path) -> None:
    def fail(draft: Draft) -> None:
        draft.write_json("checkpoint", {"step": 7})
        raise RuntimeError("out of patience")

    seen: list[object] = []

    def resume(draft: Draft) -> None:
        seen.append((draft.folder / "checkpoint.json").exists())

    arguments = {"code_version": "1", "config": {}, "inputs": {}}
    with pytest.raises(RuntimeError, match="out of patience"):
        build_artifact(tmp_path, "model", build=fail, **arguments)
    assert [p.suffix for p in (tmp_path / "model").iterdir() if p.is_dir()] == [".partial"]
    build_artifact(tmp_path, "model", build=resume, **arguments)
    assert seen == [True]


def test_killed_build_leaves_no_finished_folder(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import os, pathlib, signal, sys
        from pipelines.store.artifacts import build_artifact
        def build(draft):
            draft.write_json("checkpoint", {"step": 7})
            os.kill(os.getpid(), signal.SIGKILL)
        build_artifact(pathlib.Path(sys.argv[1]), "model", code_version="1", config={}, inputs={}, build=build)
        """
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    artifact = build_artifact(tmp_path, "model", code_version="1", config={}, inputs={}, build=lambda draft: None)
    assert not artifact.reused
    assert artifact.json("checkpoint") == {"step": 7}


def test_interrupted_write_keeps_the_old_file(tmp_path: Path) -> None:
    draft = Draft("a", "f", tmp_path)
    draft.write_json("state", {"step": 1})

    def write_half() -> None:
        with draft.writing("state.json") as path:
            path.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (tmp_path / "state.json").read_text() == '{\n  "step": 1\n}\n'
    assert os.listdir(tmp_path) == ["state.json"]


def test_full_disk_says_what_to_do(tmp_path: Path) -> None:
    def full(draft: Draft) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match=r"No space left.*store\.config\.directory"):
        build_artifact(tmp_path, "model", code_version="1", config={}, inputs={}, build=full)


def test_missing_file_is_named(tmp_path: Path) -> None:
    artifact = build(tmp_path, 1, [])
    with pytest.raises(ArtifactError, match=r"expected nothing\.parquet .*delete it"):
        artifact.read("nothing")


def test_tables_and_pictures_name_what_they_were_made_from(tmp_path: Path) -> None:
    from PIL import Image

    upstream = build(tmp_path, 2, [])

    def write(draft: Draft) -> None:
        draft.write_table("table", pl.DataFrame({"x": [1]}))
        (draft.folder / "figures").mkdir(exist_ok=True)
        Image.new("RGB", (2, 2)).save(draft.folder / "figures" / "one.png")

    made = build_artifact(tmp_path, "drawn", code_version="1", config={}, inputs={"numbers": upstream}, build=write)
    expected = {"asset": "drawn", "fingerprint": made.fingerprint, "inputs": {"numbers": upstream.fingerprint}}
    assert json.loads(pl.read_parquet_metadata(made.path("table.parquet"))["hydralora"]) == expected
    with Image.open(made.path("figures/one.png")) as picture:
        assert json.loads(picture.text["hydralora"]) == expected
        assert picture.size == (2, 2)


def test_inputs_of_two_runs_are_not_mixed(tmp_path: Path) -> None:
    three, four = build(tmp_path, 3, []), build(tmp_path, 4, [])

    def derive(asset: str, source: Artifact) -> Artifact:
        return build_artifact(
            tmp_path, asset, code_version="1", config={}, inputs={"numbers": source}, build=lambda draft: None
        )

    left, right = derive("left", three), derive("right", four)
    with pytest.raises(ArtifactError, match=r"would mix two runs: left was made from numbers .*, right from numbers"):
        build_artifact(
            tmp_path,
            "both",
            code_version="1",
            config={},
            inputs={"left": left, "right": right},
            build=lambda draft: None,
        )


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "delete"])
def test_a_damaged_artifact_is_reported_by_path_and_built_again(tmp_path: Path, harm: str) -> None:
    from pipelines.store import artifacts

    made = build(tmp_path, 3, [])
    path = made.path("values.npy")
    good = path.read_bytes()
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    if harm == "delete":
        path.unlink()
    else:
        path.write_bytes({"truncate": good[:-1], "flip": flipped, "empty": b""}[harm])
    artifacts._HASHED.clear()  # as in another process
    said: list[str] = []
    calls: list[str] = []

    def write(draft: Draft) -> None:
        calls.append(draft.fingerprint)
        draft.write_table("numbers", pl.DataFrame({"x": [3]}))
        draft.write_array("values", np.arange(3))

    again = build_artifact(
        tmp_path, "numbers", code_version="1", config={"number": 3}, inputs={}, build=write, log=said.append
    )
    assert calls == [made.fingerprint]
    assert str(path) in said[0]
    assert again.path("values.npy").read_bytes() == good
