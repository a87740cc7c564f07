"""Runs tasks on a Ray cluster.

Only names, paths and small values pass between machines. Results lie in shared storage, because Ray does not recover
the objects of a driver that died.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis.engine.tasks import ATTEMPTS, ShardError, Task, dead_task, perform, take_one_thread
from analysis.text.kernel_cache import digest_of_sources

KERNELS = "analysis.shards.compiling:compile_kernels"
WAITING_FOR_EACH_WORKER = 2


class RayEngine:
    """Runs each task on one CPU of the cluster that this process is connected to. See `connected`.

    Args:
        cpus_per_task: CPUs that Ray counts for a task; more than one leaves more memory to each task.
    """

    def __init__(self, cpus_per_task: float = 1) -> None:
        self.cpus_per_task = cpus_per_task

    @property
    def n_workers(self) -> int:
        """How many tasks the cluster runs at a time, as it is now."""
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1) // self.cpus_per_task))

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Yield the position of each task and its result, in the order in which the tasks end.

        After an error, tasks in progress are not cancelled: the next run uses their results.

        Raises:
            ShardError: a task raised an error, or its process died too often.
        """
        import ray

        remote = ray.remote(num_cpus=self.cpus_per_task, max_retries=ATTEMPTS - 1)(_perform)
        waiting = list(range(len(tasks)))
        running: dict[Any, int] = {}
        while waiting or running:
            # Submit few tasks at a time, so that machines that join later get some of the rest.
            while waiting and len(running) < WAITING_FOR_EACH_WORKER * self.n_workers:
                task = tasks[waiting[0]]
                running[remote.remote(task.function, task.arguments, task.label)] = waiting.pop(0)
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                result = _result(reference, tasks[running[reference]])
                yield running.pop(reference), result


@contextmanager
def connected(address: str | None, **settings: Any) -> Iterator[None]:
    """A connection to a cluster, which ends with the block. An existing connection is used and kept open.

    Args:
        address: `auto` for the cluster of this machine (`ray start`), or `host:port` of its head; None starts Ray on
            this machine alone.
        settings: further arguments of `ray.init`.

    Raises:
        ValueError: Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ValueError("engine: ray is not installed; pip install 'hydralora[ray]'") from None
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(
            address=address or "local", log_to_driver=False, include_dashboard=None if address else False, **settings
        )
    except ConnectionError as error:
        raise ValueError(
            f"engine: expected a Ray cluster at {address!r}, found none ({error}). Start one with `ray start --head`"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _result(reference: Any, task: Task) -> Any:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, ShardError):
            raise error.cause from None
        raise ShardError(f"{task.label}: {error.cause}") from error
    except RayError as error:  # the process or its machine died, or memory ran out
        raise dead_task(task) from error


def _perform(function: str, arguments: dict[str, Any], label: str) -> Any:
    """Run a task in a worker. The first worker of a machine compiles the kernels for all others."""
    take_one_thread()
    _prepare_machine()
    return perform(Task(function, arguments, label))


_PREPARED: list[bool] = []


def _prepare_machine() -> None:
    if _PREPARED:
        return
    from filelock import FileLock

    # A cache on this machine: processes that share a cache over a network file system damage it.
    cache = Path(tempfile.gettempdir()) / f"hydralora-numba-{os.getuid()}-{digest_of_sources()}"
    cache.mkdir(exist_ok=True)
    os.environ["NUMBA_CACHE_DIR"] = str(cache)
    with FileLock(cache / "compiling.lock"):
        perform(Task(KERNELS, {}, "compiling the kernels"))
    _PREPARED.append(True)
