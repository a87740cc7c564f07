"""Locks: one holder, whoever waits is told for whom, and gives up in time."""

import multiprocessing
import os
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from pipelines.store.files.locks import LockError, exclusive


def hold(path: Path, held: Event, enough: Event) -> None:
    with exclusive(path, print):
        held.set()
        enough.wait(60)


def test_who_waits_is_told_for_whom_and_gives_up(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, enough = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "a.lock", held, enough))
    process.start()
    assert held.wait(60)
    said: list[str] = []
    with (
        pytest.raises(LockError, match=rf"process {process.pid} on .* holds"),
        exclusive(tmp_path / "a.lock", said.append, timeout=0.3, note_every=0.1),
    ):
        pass
    assert said
    assert all(f"process {process.pid}" in text for text in said)
    enough.set()
    process.join(60)
    with exclusive(tmp_path / "a.lock", said.append, timeout=10):
        assert str(os.getpid()) in (tmp_path / "a.lock.owner").read_text()
    assert not (tmp_path / "a.lock.owner").exists()
