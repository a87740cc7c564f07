"""A task names a function and its arguments. Only text goes to a worker, so any engine can run it."""

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
"""Variables that limit the threads of the numeric libraries. They are read when a library is first imported."""
ATTEMPTS = 4
"""How often a task is started if the process that runs it dies."""


class ShardError(RuntimeError):
    """A task failed. The message names its stage and its file."""


@dataclass(frozen=True)
class Task:
    """One call of a function.

    Attributes:
        function: module and name, `analysis.shards.reading:read_shard`. It takes the arguments by name and returns a
            value for JSON.
        arguments: values for JSON.
        label: name of the task in error messages: its stage and the file that it reads.
    """

    function: str
    arguments: dict[str, Any]
    label: str


class Engine(Protocol):
    """Runs tasks. Results do not depend on the engine, on the number of workers or on the order of completion."""

    @property
    def n_workers(self) -> int:
        """How many tasks run at a time."""

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Yield the position of each task and its result, in the order in which the tasks end.

        A task whose process or machine dies is started again.

        Raises:
            ShardError: a task raised an error, or its process died `ATTEMPTS` times.
        """


class SerialEngine:
    """Runs tasks one after another in this process."""

    n_workers = 1

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Yield the position of each task and its result, in order."""
        for position, task in enumerate(tasks):
            yield position, perform(task)


def perform(task: Task) -> Any:
    """Run a task.

    Raises:
        ShardError: the function raised an error.
    """
    try:
        return function_of(task.function)(**task.arguments)
    except Exception as error:
        text = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        raise ShardError(f"{task.label}: {text}") from error


def take_one_thread() -> None:
    """Limit this worker to one thread for each library. Several workers share a machine."""
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))


def dead_task(task: Task) -> ShardError:
    """The error for a task whose process keeps dying."""
    return ShardError(
        f"{task.label}: the process of this task died {ATTEMPTS} times, usually because memory ran out. "
        f"Make shards smaller (`shard_bytes`), or run fewer tasks at a time"
    )


def function_of(name: str) -> Callable[..., Any]:
    """The function with a name of the form `module:function`."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
