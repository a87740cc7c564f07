"""Processes that compute a step: they end with the process that started them, and the run knows them."""

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

HOST_TAG = "hydralora/host"
"""Run tag with the host that computes the run. Its processes can only be inspected on that host."""
_PROCESS_TAG = "hydralora/process-"
"""Begin of the run tags with the process of each step, a time at which it was alive, and its start."""
_watched = False


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, for any reason.

    Dagster runs each step in a process of its own. If somebody kills the run, that process would go on and use the GPU
    while the run counts as failed. In a process that `multiprocessing` did not start, this does nothing.
    """
    global _watched
    parent = multiprocessing.parent_process()
    if parent is None or _watched:
        return
    _watched = True

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def tag_process(context: dg.AssetExecutionContext) -> None:
    """Note in the run which host and which process computes this step."""
    step = context.op_execution_context.op_handle.name
    tags = {f"{_PROCESS_TAG}{step}": f"{os.getpid()} {time.time():.3f} {start_of(os.getpid())}".rstrip()}
    if HOST_TAG not in context.run.tags:
        tags[HOST_TAG] = socket.gethostname()
    context.instance.add_run_tags(context.run.run_id, tags)


def start_of(pid: int) -> str:
    """What tells a process from all others that had or will have its id, whatever the clock does; empty if unknown.

    It is the kernel's count of clock ticks at the start of the process, and the id of the machine's own start.
    """
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{ticks}@{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    except (OSError, IndexError):
        return ""


def tagged_processes(run: dg.DagsterRun) -> Iterator[tuple[int, float, str]]:
    """Process id of each step that began, a time at which it was alive, and its `start_of`."""
    for name, value in run.tags.items():
        if name.startswith(_PROCESS_TAG):
            pid, seen, *start = value.split()
            yield int(pid), float(seen), start[0] if start else ""
