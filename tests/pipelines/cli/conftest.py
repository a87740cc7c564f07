"""The command `hydralora` in this process."""

import sys

import pytest


@pytest.fixture
def hydralora(monkeypatch, tmp_path, capsys):
    """Run a command in an empty folder: its exit code, stdout and stderr."""
    from pipelines.cli.__main__ import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hydralora", *map(str, arguments)])
        try:
            main()
            code: object = 0
        except SystemExit as end:
            code = end.code
        told = capsys.readouterr()
        return code, told.out, told.err

    return run
