"""Processes that compute a step: they end with the process that started them, and the run knows them."""

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator

import dagster as dg

HOST_TAG = "hydralora/host"
"""Run tag with the host that computes the run. Its processes can only be inspected on that host."""
_PROCESS_TAG = "hydralora/process-"
"""Begin of the run tags with the process of each step, and the time at which it was alive."""
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
    tags = {f"{_PROCESS_TAG}{step}": f"{os.getpid()} {time.time():.3f}"}
    if HOST_TAG not in context.run.tags:
        tags[HOST_TAG] = socket.gethostname()
    context.instance.add_run_tags(context.run.run_id, tags)


def tagged_processes(run: dg.DagsterRun) -> Iterator[tuple[int, float]]:
    """Process id of each step that began, and a time at which it was alive."""
    for name, value in run.tags.items():
        if name.startswith(_PROCESS_TAG):
            pid, seen = value.split()
            yield int(pid), float(seen)
