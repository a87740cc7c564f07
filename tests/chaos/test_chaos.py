"""The short form of the chaos suite; in a process of its own, since it forks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.full_disk import can_mount

pytestmark = pytest.mark.chaos


def chaos(folder: Path, part: str) -> dict[str, Any]:
    output = folder / "chaos.json"
    one_thread = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "tests.chaos", "--short", "--only", part, "--output", str(output)]
    ended = subprocess.run(command, env={**os.environ, **one_thread}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    figures: dict[str, Any] = json.loads(output.read_text())[part]
    return figures


def test_killed_in_each_asset_then_the_same_bytes(tmp_path: Path) -> None:
    found = chaos(tmp_path, "kills")["corpus"]
    assert found["kills"] >= 4, found
    assert (found["runs_that_failed"], found["trials_with_differences"]) == ([], [])


def test_damage_is_named_and_built_again(tmp_path: Path) -> None:
    found = chaos(tmp_path, "damages")["corpus"]
    assert found["damages"] >= 24
    assert (found["not_reported_by_path"], found["runs_that_failed"]) == ([], [])
    assert found["files_that_differ_afterwards"] == []


@pytest.mark.skipif(not can_mount(), reason="mounting a small disk needs root")
def test_a_full_disk_is_said_and_forgotten_once_it_has_grown(tmp_path: Path) -> None:
    found = chaos(tmp_path, "disks")["corpus"]
    assert found["full"] == found["full_and_clear"] > 0
    assert found["right_after_growing"] == found["sizes"]


def test_a_finished_store_works_without_the_right_to_write(tmp_path: Path) -> None:
    found = chaos(tmp_path, "read_only")
    assert (found["read_only"]["code"], found["read_only"]["unchanged"]) == (0, True)
    if "another_user" in found:
        assert (found["another_user"]["code"], found["another_user"]["unchanged"]) == (0, True), found


def test_runs_at_once_hold_what_each_holds_alone(tmp_path: Path) -> None:
    found = chaos(tmp_path, "concurrency")["sqlite"]
    assert (found["failed"], found["wrong"]) == ([], [])
    assert found["right"] == found["runs"] == 6


def test_first_runs_at_once_leave_a_home_that_opens(tmp_path: Path) -> None:
    found = chaos(tmp_path, "homes")
    assert (found["failed"], found["broken"]) == ([], [])
