"""A finished store that cannot be written to, and whose owner is somebody else."""

import contextlib
import importlib
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.chaos.job import contents, run, setup


def finished_store_read_only(folder: Path, job: str) -> dict[str, Any]:
    """A run on a finished store without the right to write; as root on a read-only mount."""
    work = setup(folder, job, folder / "reference")
    if not work.store.exists():
        assert run(work, folder / "reference.log") == 0, (folder / "reference.log").read_text()[-3000:]
    expected, log = contents(work.store), folder / "read-only.log"
    store, mounted = str(work.store), os.geteuid() == 0
    if mounted:
        subprocess.run(["mount", "--bind", store, store], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", store], check=True)
    else:
        subprocess.run(["chmod", "-R", "a-w", store], check=True)
    try:
        code = run(work, log)
        unchanged = contents(work.store) == expected
    finally:
        subprocess.run(["umount", store] if mounted else ["chmod", "-R", "u+w", store], check=True)
    return {"job": job, "how": "read-only bind mount" if mounted else "chmod", "code": code, "unchanged": unchanged}


def finished_store_of_another_user(folder: Path, job: str, user: str = "nobody") -> dict[str, Any]:
    """A run as a user who may read the store and nothing more; needs root."""
    work = setup(folder, job, folder / "reference", home=folder / f"home-{user}")
    for path in [folder, *folder.parents]:
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    log = work.home / "run.log"
    shutil.rmtree(work.home, ignore_errors=True)
    for path in (work.home, log):  # the folder first
        path.touch() if path == log else path.mkdir()
        shutil.chown(path, user)
    load_all((folder / "read-only.modules").read_text().split())
    process = os.fork()
    if not process:
        os.setgid(pwd.getpwnam(user).pw_gid)
        os.setuid(pwd.getpwnam(user).pw_uid)
        os._exit(run(work, log) & 0xFF)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return {"job": job, "user": user, "code": code, "log": "" if code == 0 else log.read_text()[-2000:]}


def load_all(modules: list[str]) -> None:
    """Import what an earlier run imported: another user may not read the interpreter's own files."""
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
