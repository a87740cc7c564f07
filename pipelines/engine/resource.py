"""The engine as a resource. It is not part of a fingerprint, because the result does not depend on it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

import dagster as dg

if TYPE_CHECKING:
    from analysis.engine.tasks import Engine


class ShardEngine(dg.ConfigurableResource):
    """Where the tasks of `sharded_corpus` run."""

    engine: Literal["local", "ray"] = "local"
    """`local`, in processes of this machine, or `ray`, on a Ray cluster (extra `ray`)."""
    workers: int = 1
    """For `local`: number of processes; 1 runs one task after another in the run's own process."""
    address: str = "auto"
    """For `ray`: `auto` for the cluster of this machine, or `host:port` of its head."""
    driver: Literal["run", "process"] = "run"
    """What hands out the tasks: the run itself, or a process of its own under Dagster Pipes."""
    cpus_per_task: float = 1
    """For `ray`: CPUs for each task; a larger number leaves more memory to each task."""

    @contextmanager
    def started(self) -> "Iterator[Engine]":
        """The engine, connected within the block.

        Raises:
            dagster.Failure: Ray is not installed, or no cluster answers.
        """
        if self.engine == "local":
            from analysis.engine.processes import ProcessEngine
            from analysis.engine.tasks import SerialEngine

            if self.workers == 1:
                yield SerialEngine()
                return
            processes = ProcessEngine(self.workers)
            try:
                yield processes
            finally:
                processes.close()
            return
        from pipelines.engine.ray_engine import RayEngine

        with cluster(self.address):
            yield RayEngine(self.cpus_per_task)


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """A connection to a Ray cluster, which ends with the block.

    Raises:
        dagster.Failure: Ray is not installed, or no cluster answers.
    """
    from pipelines.engine.ray_engine import connected

    with ExitStack() as stack:
        try:
            stack.enter_context(connected(address))
        except ValueError as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        yield
