"""Output of commands: progress and errors on stderr, results on stdout."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from pipelines.store.files.disk import nearest_existing


def fail(text: str, code: int = 2) -> NoReturn:
    """End with one sentence on stderr."""
    print(f"hydralora: {text}", file=sys.stderr)
    raise SystemExit(code)


@contextmanager
def one_error(*kinds: type[Exception], code: int = 2) -> Iterator[None]:
    """Print an expected exception as one sentence, without a traceback, and end with this exit code."""
    try:
        yield
    except kinds as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            text = f"{error.filename2 or error.filename}: {error.strerror}"
        if is_setting(error):
            text += ". Settings of a source go into a configuration; `hydralora init` writes it"
        fail(text, code)


def is_setting(error: Exception) -> bool:
    """Whether the files can be read once a configuration says how."""
    from analysis.sources.records import SettingError

    return isinstance(error, SettingError)


def checked_folder(folder: Path, option: str = "--out") -> None:
    """End, before anything is computed, if nothing can be written into a folder that exists or will be made."""
    try:
        with TemporaryDirectory(
            dir=nearest_existing(folder)
        ):  # permissions alone say nothing of root, /proc and read-only disks
            pass
    except OSError as error:
        fail(f"{option}: expected a folder that can be written or made, got {folder} ({error.strerror})")


def checked_file(file: Path, option: str = "--out") -> None:
    """End if a file cannot be written."""
    checked_folder(file.parent, option)
    if file.is_dir():
        fail(f"{option}: expected the name of a file, got the folder {file}")


def columns_of(pairs: Sequence[str]) -> dict[str, str]:
    """ROLE=NAME pairs as a mapping; anything else ends the command."""
    for pair in pairs:
        role, equals, name = pair.partition("=")
        if not (role and equals and name):
            fail(f"--column: expected ROLE=NAME, for instance prompt=question, got {pair!r}")
    found = dict(pair.split("=", 1) for pair in pairs)
    if len(found) < len(pairs):
        fail(f"--column: expected each role once, got {' '.join(pairs)}")
    return found


def print_json(value: Any) -> None:
    """A value as JSON on stdout."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))
