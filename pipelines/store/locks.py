"""One builder for each artifact: whoever else wants it waits, is told for whom, and does not wait forever."""

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
    """Another process holds a lock for too long."""


@contextmanager
def exclusive(
    path: Path, say: Callable[[str], object], *, timeout: float = TIMEOUT_SECONDS, note_every: float | None = None
) -> Iterator[None]:
    """Hold the lock `path`; the file `<path>.owner` beside it says who does.

    The system releases the lock of a process that dies, by whatever cause.

    Args:
        say: told after a second, and then every minute, whom this process waits for.
        timeout: seconds after which it gives up.
        note_every: seconds between two notes.

    Raises:
        LockError: the timeout passed.
    """
    import filelock  # loaded here: reading artifacts must stay cheap

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
            say(f"waiting for {who}, which builds {path.with_suffix('').name} ({waited:.0f} s so far)")
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
