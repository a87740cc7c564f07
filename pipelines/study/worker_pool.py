"""Work side by side in processes that stay for the next piece of work.

For pieces of seconds, such as the runs of a study: a process of `pipelines.training.launcher` takes as long to start,
which is nothing to a training of minutes.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from pipelines.store.artifacts import Artifact
from pipelines.training.adapters import Log
from pipelines.training.launcher import Launcher

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

# polars takes SIGINT in a way that restarts waits without end: Python would see it when the next piece is done.
SECONDS_BETWEEN_LOOKS = 1.0

Work = Callable[[Log], Artifact]
"""Builds an artifact; a function of a module or a `partial` of one, so that it passes to another process."""


def build_all(work: Mapping[str, Work], launcher: Launcher, log: Log, outcome: Callable[[Artifact], str]) -> None:
    """Do all the work, by label, `launcher.parallel` pieces at a time. One at a time stays in this process.

    Beside others a piece may find no memory left, or may die with all others when the system ends a process for want of
    it. So what fails side by side is tried once more, alone.

    Args:
        outcome: what the log says of a finished artifact.

    Raises:
        dagster.Failure: some pieces failed, with the reason of each. The others were finished.
    """
    if launcher.processes_per_training > 1:
        raise dg.Failure(
            "Expected resources.launcher.config.processes_per_training of 1: runs of a comparison or a study have a "
            "process each. Several GPUs are shared out by `parallel`.",
            allow_retries=False,
        )
    if work:
        log(f"{len(work)} to do, {launcher.parallel} at a time")
    side_by_side = launcher.parallel > 1 and len(work) > 1
    results = _side_by_side(work, launcher) if side_by_side else _one_by_one(work, log)
    failed = _collect(results, len(work), log, outcome)
    if side_by_side and failed:
        log(f"{len(failed)} failed, which are tried once more, one at a time")
        alone = launcher.model_copy(update={"parallel": 1})
        again = (result for label in failed for result in _side_by_side({label: work[label]}, alone))
        failed = _collect(again, len(failed), log, outcome)
    if failed:
        texts = "\n".join(f"{label}: {text}" for label, text in failed.items())
        raise dg.Failure(f"{len(failed)} of {len(work)} failed.\n{texts}", allow_retries=False)


Results = Iterator[tuple[str, Callable[[], Artifact]]]
"""Label of each piece, and what gives its artifact or raises what it failed with."""


def _collect(results: Results, total: int, log: Log, outcome: Callable[[Artifact], str]) -> dict[str, str]:
    """Tell how each piece went; the reasons of those that failed."""
    failed: dict[str, str] = {}
    for done, (label, result) in enumerate(results, start=1):
        try:
            text = outcome(result())
        except Exception as error:  # the others are still worth finishing
            failed[label] = text = str(error)
        log(f"{done} of {total}: {label}: {text}")
    return failed


def _one_by_one(work: Mapping[str, Work], log: Log) -> Results:
    for label, build in work.items():
        yield label, partial(build, log)


def _side_by_side(work: Mapping[str, Work], launcher: Launcher) -> Results:
    """Label and result of each piece, in the order in which they end."""
    processes = min(launcher.parallel, len(work))
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    environments = context.Queue()
    for slot in range(processes):
        environments.put(launcher.environment(slot))
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(environments,)) as pool:
        futures = {pool.submit(_build, label, build): label for label, build in work.items()}
        try:
            while futures:
                for future in wait(futures, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED).done:
                    yield futures.pop(future), future.result
        except BaseException:  # an interrupt: leave no child behind
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _start(environments: "Queue[dict[str, str]]") -> None:
    """Take a share of processors and GPUs (before torch is imported), and end when the job ends, by whatever signal."""
    os.environ.update(environments.get())
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _build(label: str, build: Work) -> Artifact:
    return build(lambda text: print(f"{label}: {text}", flush=True))
