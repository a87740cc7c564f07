"""A lock so that only one process builds an artifact. Others wait, log which process they wait for, and time out."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TIMEOUT_SECONDS = 24 * 3600.0
_SECONDS_BETWEEN_NOTES = 60.0


class LockError(RuntimeError):
    """Another process has held a lock for longer than the timeout."""


@contextmanager
def exclusive(
    path: Path, log: Callable[[str], object], *, timeout: float = TIMEOUT_SECONDS, note_every: float | None = None
) -> Iterator[None]:
    """Hold the lock file `path`. The file `<path>.owner` names the process that holds it.

    The operating system releases the lock if the process dies for any reason.

    Args:
        log: logger that gets the owner's name after one second of waiting, and then every `note_every` seconds.
        timeout: seconds to wait before giving up.
        note_every: seconds between two messages.

    Raises:
        LockError: the timeout passed.
    """
    import filelock  # imported here to keep reading artifacts cheap

    lock = filelock.FileLock(path)
    owner = path.with_name(f"{path.name}.owner")
    started, every = time.monotonic(), note_every or _SECONDS_BETWEEN_NOTES
    wait = min(1.0, every)
    while True:
        left = timeout - (time.monotonic() - started)
        try:
            lock.acquire(timeout=max(0.0, min(wait, left)))
            break
        except filelock.Timeout:
            who, waited = _owner(owner), time.monotonic() - started
            if waited >= timeout:
                raise LockError(
                    f"Waited {waited:.0f} s for {path}, which {who} holds. If that process is stuck, end it and run "
                    f"again; the work is continued."
                ) from None
            log(f"waiting for {who}, which builds {path.with_suffix('').name} ({waited:.0f} s so far)")
            wait = every
    try:
        owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _owner(path: Path) -> str:
    try:
        values = json.loads(path.read_text())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(values["since"]))
        return f"process {values['pid']} on {values['host']} (since {since})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
