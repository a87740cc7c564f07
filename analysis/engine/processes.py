"""Runs tasks in processes of this machine."""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from analysis.engine.tasks import ATTEMPTS, Task, dead_task, perform, take_one_thread

SECONDS_BETWEEN_LOOKS = 1.0
"""polars' handler of SIGINT restarts waits without a limit, so Ctrl-C would only be noticed when a task ends."""


class ProcessEngine:
    """Runs tasks in `n_workers` processes, each with one thread for each library.

    The processes stay from stage to stage until `close`. If one dies, all tasks in progress start again, one at a time,
    to find the cause.

    Raises:
        ValueError: `n_workers` is not positive.
    """

    def __init__(self, n_workers: int) -> None:
        if n_workers < 1:
            raise ValueError(f"n_workers: expected at least 1, got {n_workers}")
        self.n_workers = n_workers
        self._pool: ProcessPoolExecutor | None = None

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Yield the position of each task and its result, in the order in which the tasks end."""
        waiting = list(range(len(tasks)))
        while waiting:
            suspects: list[int] = []
            yield from self._together(tasks, waiting, suspects)
            for position in suspects:
                yield position, _alone(tasks[position])

    def _together(self, tasks: Sequence[Task], waiting: list[int], suspects: list[int]) -> Iterator[tuple[int, Any]]:
        """Run waiting tasks until they are done or the pool breaks. Tasks that ran when it broke go to `suspects`."""
        self._pool = self._pool or _new_pool(self.n_workers)
        futures: dict[Future[Any], int] = {}
        try:
            while waiting or futures:
                while waiting and len(futures) < 2 * self.n_workers:
                    futures[self._pool.submit(perform, tasks[waiting[0]])] = waiting[0]
                    del waiting[0]
                for future in wait(futures, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done:
                    result = future.result()
                    yield futures.pop(future), result
        except BrokenProcessPool:
            self.close()
            suspects += sorted(futures.values())
        except BaseException:
            self.close()
            raise


def _alone(task: Task) -> Any:
    for _ in range(ATTEMPTS - 1):
        try:
            with _new_pool(1) as pool:
                return pool.submit(perform, task).result()
        except BrokenProcessPool:
            continue
    raise dead_task(task)


def _new_pool(n_workers: int) -> ProcessPoolExecutor:
    # Forking a process with the threads of polars and numba would deadlock.
    return ProcessPoolExecutor(n_workers, multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    take_one_thread()
    threading.Thread(target=_end_with_driver, daemon=True).start()


def _end_with_driver() -> None:
    """End this worker when the process that hands out the tasks is gone: the pool itself would wait for ever."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)
