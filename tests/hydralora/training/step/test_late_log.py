"""Logs that are read one step late."""

from pathlib import Path

import pytest

from hydralora.training.step import late_log
from tests.hydralora.training.step.test_graphs import OPTIONS
from tests.hydralora.training.step.test_packing import trained


def test_a_late_log_has_the_steps_of_one_on_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**OPTIONS, "eval_steps": 3, "save_steps": 3}
    trained(tmp_path / "on_time", "hydralora", True, **options)
    monkeypatch.setattr(late_log, "_logs_on_time", lambda *_: False)
    trained(tmp_path / "late", "hydralora", True, **options)
    curves = [(tmp_path / name / "curve.jsonl").read_text() for name in ("on_time", "late")]
    without_seconds = [[line.split(', "seconds"')[0] for line in curve.splitlines()] for curve in curves]
    assert without_seconds[0] == without_seconds[1]
    assert [line.split(",")[0] for line in without_seconds[0]] == [f'{{"step": {n}' for n in (1, 2, 3, 3, 4, 4)]
