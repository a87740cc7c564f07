"""A finished store that cannot be written to, and whose owner is somebody else."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.chaos.full_disk import can_mount
from tests.chaos.job import STORE, Setup, contents, finished, reference, run, setup, wait
from tests.chaos.progress import Outcome, Try

USER = "nobody"


def tries(folder: Path, short: bool) -> Iterator[Try]:
    """Runs on a finished store: by its owner without the right to write, and by a user who may only read it."""
    job = "corpus" if short else "hydralora"
    yield Try(f"{job} read-only", partial(read_only_store, folder / job, job))
    if can_mount():
        yield Try(f"{job} another user", partial(store_of_another_user, folder / job, job))


def read_only_store(folder: Path, job: str) -> Outcome:
    """A run on a finished store without the right to write; as root on a read-only mount."""
    expected, work, log = reference(folder, job), setup(folder, job, folder / STORE), folder / "read-only.log"
    finished(folder)
    with _read_only(work.store) as how:
        code = run(work, log)
        unchanged = contents(work.store) == expected
    return {"job": job, "how": how, "code": code, "unchanged": unchanged, "said": log.read_text()[-2000:] * (code != 0)}


def store_of_another_user(folder: Path, job: str) -> Outcome:
    """A user with a home of its own runs on the store, and asks for its results; needs root.

    Nothing may be built: the store belongs to root, is mounted read-only, and is the same afterwards.
    """
    expected = reference(folder, job)
    work = setup(folder, job, folder / STORE, home=folder / f"home-{USER}")
    finished(folder)
    for path in [folder, *folder.parents]:
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    for path in (folder / "base").iterdir():
        path.chmod(0o644)  # safetensors gives access to the owner only
    shutil.rmtree(work.home, ignore_errors=True)
    work.home.mkdir()
    log, configuration = work.home / "run.log", work.home / "configuration.yaml"
    log.touch()
    configuration.write_text(yaml.safe_dump(work.config))
    for path in (work.home, log, configuration):
        shutil.chown(path, USER)
    with _read_only(work.store):
        code = _as_user(lambda: run(work, log), work.home)
        results = _as_user(lambda: _results(work, configuration, job), work.home)
        unchanged = contents(work.store) == expected
    said = log.read_text()
    return {
        "job": job,
        "user": USER,
        "code": code,
        "summary": results if job == "hydralora" else "the job corpus has no summary",
        "unchanged": unchanged,
        "said": said[-2000:] if code or results else "",
    }


@contextmanager
def _read_only(store: Path) -> Iterator[str]:
    """The store without the right to write. Yields how that was done."""
    folder, mounted = str(store), can_mount()
    if mounted:
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
    else:
        subprocess.run(["chmod", "-R", "a-w", folder], check=True)
    try:
        yield "read-only bind mount" if mounted else "chmod"
    finally:
        subprocess.run(["umount", folder] if mounted else ["chmod", "-R", "u+w", folder], check=True)


def _as_user(action: Any, home: Path) -> int:
    """The exit code of an action in a process of another user, whose home is `home`."""
    # What a run imports is there already: where the interpreter is in root's own folder, the user may not read it.
    process = os.fork()
    if process:
        return wait(process)
    code = 1
    try:
        os.environ.update(HOME=str(home), DAGSTER_DISABLE_TELEMETRY="1", TMPDIR=str(home), MPLCONFIGDIR=str(home))
        os.chdir(home)
        os.setgroups([])
        os.setgid(pwd.getpwnam(USER).pw_gid)
        os.setuid(pwd.getpwnam(USER).pw_uid)
        code = action() & 0xFF
    finally:
        os._exit(code)


def _results(work: Setup, configuration: Path, job: str) -> int:
    """`python -m pipelines.summary`, as the user calls it."""
    from pipelines import summary as command

    if job == "corpus":
        return 0
    handle = os.open(work.home / "run.log", os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = ["summary", str(configuration)]
    command.main()
    print("the end", flush=True)
    return 0


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """The outcomes by kind."""
    found: dict[str, Any] = {"read_only": next(one for one in outcomes if "how" in one)}
    another = [one for one in outcomes if "user" in one]
    return found | ({"another_user": another[0]} if another else {})
