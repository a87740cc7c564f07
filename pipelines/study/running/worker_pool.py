"""Runs tasks in parallel in a pool of long-lived processes, or on a Ray cluster.

It is for tasks of some seconds, such as the runs of a study. `pipelines.training.launcher` starts a new process for
each training. That takes some seconds too, which matters here but not for trainings of minutes.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from analysis.engine.tasks import ATTEMPTS
from pipelines.store.artifacts import Artifact
from pipelines.store.files.processes import end_with_parent
from pipelines.training.adapters import Log
from pipelines.training.launcher import Launcher

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

# polars' SIGINT handler restarts blocking waits, so Ctrl-C would only be noticed when a task ends. We poll instead.
SECONDS_BETWEEN_LOOKS = 1.0

Work = Callable[[Log], Artifact]
"""A task that builds an artifact. It must be picklable: a module-level function, or a `partial` of one."""


def build_all(work: Mapping[str, Work], launcher: Launcher, log: Log, outcome: Callable[[Artifact], str]) -> None:
    """Run all tasks, `launcher.parallel` at a time. With `parallel: 1`, they run in this process.

    With `engine: ray`, each is a Ray task with one CPU, and one GPU if the cluster has any; the cluster decides how
    many run at a time. A task whose machine dies starts again on another one.

    Parallel tasks can run out of memory; the OOM killer then breaks the whole pool. So tasks that fail in parallel are
    retried once, one at a time.

    Args:
        work: label -> task.
        outcome: function that returns the log text for a finished artifact.

    Raises:
        dagster.Failure: some tasks failed; the message has the reason of each. All other tasks are finished.
    """
    if launcher.processes_per_training > 1:
        raise dg.Failure(
            "Expected resources.launcher.config.processes_per_training of 1: each run of a comparison or a study has "
            "one process. To use several GPUs, set `parallel`.",
            allow_retries=False,
        )
    if launcher.engine == "ray":
        with launcher.cluster():
            log(f"{len(work)} to do on the Ray cluster")
            _raise(_collect(_on_ray(work), len(work), log, outcome), len(work))
        return
    if work:
        log(f"{len(work)} to do, {launcher.parallel} at a time")
    side_by_side = launcher.parallel > 1 and len(work) > 1
    one_by_one = ((label, partial(build, log)) for label, build in work.items())
    results = _side_by_side(work, launcher) if side_by_side else one_by_one
    failed = _collect(results, len(work), log, outcome)
    if side_by_side and failed:
        log(f"{len(failed)} failed and are retried once, one at a time")
        alone = launcher.model_copy(update={"parallel": 1})
        again = (result for label in failed for result in _side_by_side({label: work[label]}, alone))
        failed = _collect(again, len(failed), log, outcome)
    _raise(failed, len(work))


def _raise(failed: Mapping[str, str], total: int) -> None:
    if failed:
        texts = "\n".join(f"{label}: {text}" for label, text in failed.items())
        raise dg.Failure(f"{len(failed)} of {total} failed.\n{texts}", allow_retries=False)


Results = Iterator[tuple[str, Callable[[], Artifact]]]
"""Label of each task, and a function that returns its artifact or raises its error."""


def _collect(results: Results, total: int, log: Log, outcome: Callable[[Artifact], str]) -> dict[str, str]:
    """Log the outcome of each task. Returns label -> reason for the tasks that failed."""
    failed: dict[str, str] = {}
    for done, (label, result) in enumerate(results, start=1):
        try:
            text = outcome(result())
        except Exception as error:  # one failed task must not stop the others
            failed[label] = text = str(error)
        log(f"{done} of {total}: {label}: {text}")
    return failed


def _side_by_side(work: Mapping[str, Work], launcher: Launcher) -> Results:
    """Label and result of each task, in the order in which they end."""
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
        except BaseException:  # on an interrupt, end all child processes
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _on_ray(work: Mapping[str, Work]) -> Results:
    """Label and result of each task, in the order in which they end."""
    import ray

    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=ATTEMPTS - 1)(_build)
    running = {remote.remote(label, build): label for label, build in work.items()}
    while running:
        done, _ = ray.wait(list(running), num_returns=1)
        for reference in done:
            yield running.pop(reference), partial(_result, reference)


def _result(reference: Any) -> Artifact:
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None


def _start(environments: "Queue[dict[str, str]]") -> None:
    """Take a share of CPU cores and GPUs before torch is imported. End with the parent process, however it ends."""
    os.environ.update(environments.get())
    end_with_parent()


def _build(label: str, build: Work) -> Artifact:
    return build(lambda text: print(f"{label}: {text}", flush=True))
