"""Where trainings run: in the asset's process, in parallel processes, or each in several torchrun processes."""

import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import dagster as dg

from pipelines.store.code.versions import code_version
from pipelines.store.configuration import limited
from pipelines.training.adapters import TrainingJob, train_adapter
from pipelines.training.recipe import BaseModel, Recipe
from pipelines.training.training_process import ERROR, MODULE, VERSION

if TYPE_CHECKING:
    from hydralora.data import TokenisedDocuments

FOLDER = "process"
"""Temporary folder beside the results of a running training, with its description, output and tokens."""
_SECONDS_TO_END = 40  # longer than the 30 s that torchrun gives its processes


@dataclass(frozen=True, eq=False)
class Job:
    """One adapter to train: its folder, its method and its documents."""

    folder: Path
    training: TrainingJob
    documents: "TokenisedDocuments"

    @property
    def label(self) -> str:
        """The name of the job in logs."""
        return f"{self.training.method} ({self.folder.name})"

    @property
    def done(self) -> bool:
        """Whether the training has finished: its `run.json` exists."""
        return (self.folder / "run.json").exists()


class Launcher(dg.ConfigurableResource):
    """How the trainings of an asset are run.

    By default, they run one by one in the asset's process. With `parallel` > 1, several trainings run at a time. They
    share a GPU, which a small model leaves idle between its kernels, or get one GPU each. With `processes_per_training`
    > 1, torchrun runs each training on several GPUs. The data of a step is the same in all cases.

    With `engine: ray`, trainings run one after the other on a Ray cluster, each in `processes_per_training` processes,
    and the runs of `compare` and `study` are Ray tasks. The store must then lie on storage that all machines share.
    """

    engine: Literal["local", "ray"] = "local"
    """`local`, on this machine, or `ray`, on a Ray cluster (extra `ray`)."""
    address: str = "auto"
    """Of `ray`: `auto` for the cluster of this machine, or `host:port` of its head."""

    parallel: int = limited(1, ge=1)
    """Number of trainings that run at a time, each in its own process."""
    processes_per_training: int = limited(1, ge=1)
    """Number of processes of one training, each with its own GPU if there are GPUs."""
    fsdp: bool = False
    """Split the base model between the processes of a training (FSDP), in place of a whole copy in each. It is slower:
    for base models that do not fit one GPU, with gradient_checkpointing."""

    def train(
        self, context: dg.AssetExecutionContext, jobs: Sequence[Job], recipe: Recipe, base_model: BaseModel
    ) -> None:
        """Train the jobs that are not done. Killed trainings continue from their checkpoints.

        Raises:
            dagster.Failure: a method does not fit the base model, and nothing was trained. Or some trainings failed;
            the message has the reason of each. The other trainings are finished and will not be repeated.
        """
        for job in jobs:  # leftovers of an interrupted run, also of finished trainings
            shutil.rmtree(job.folder / FOLDER, ignore_errors=True)
        missing = [job for job in jobs if not job.done]
        _check_methods(missing, recipe, base_model)
        if self.engine == "local" and self.parallel == self.processes_per_training == 1:
            for job in missing:
                train_adapter(context.log.info, job.folder, job.training, job.documents, recipe, base_model)
            return
        for job in missing:
            (job.folder / FOLDER).mkdir(parents=True)
        tokens = _save_tokens(missing)
        descriptions = {job: self._describe(job, tokens, recipe, base_model) for job in missing}
        failed = self._run_on_ray(context, descriptions) if self.engine == "ray" else self._run(context, descriptions)
        for job in missing:
            if job not in failed:
                shutil.rmtree(job.folder / FOLDER)
        if failed:
            texts = "\n".join(f"{job.label}: {text}" for job, text in failed.items())
            raise dg.Failure(f"{len(failed)} of {len(jobs)} trainings failed.\n{texts}", allow_retries=False)

    def _describe(self, job: Job, tokens: dict[int, Path], recipe: Recipe, base_model: BaseModel) -> Path:
        """Write the description of a training that `hydralora.training.run` reads."""
        path = job.folder / FOLDER / "training.json"
        description = {
            "base_model": base_model.arguments(),
            "documents": str(tokens[id(job.documents)]),
            "folder": str(job.folder),
            "method": job.training.method,
            "method_config": asdict(job.training.settings(recipe)),
            "config": asdict(replace(job.training.config(recipe), fsdp=self.fsdp)),
            # The meter would also count the energy of parallel trainings.
            "measure_energy": job.training.measure_energy and self.parallel == 1,
        }
        path.write_text(json.dumps(description, indent=2) + "\n")
        return path

    def _run(self, context: dg.AssetExecutionContext, descriptions: dict[Job, Path]) -> dict[Job, str]:
        """Run trainings, `parallel` at a time. Returns job -> reason of failure. An interrupt ends all processes."""
        waiting = deque(descriptions)
        running: dict[int, tuple[Job, _Process]] = {}
        failed: dict[Job, str] = {}
        try:
            while waiting or running:
                for slot in range(self.parallel):
                    if waiting and slot not in running:
                        job = waiting.popleft()
                        command, environment = self._command(descriptions[job]), self.environment(slot)
                        running[slot] = job, _Process(context, job.label, descriptions[job], command, environment)
                for slot, (job, process) in list(running.items()):
                    if process.ended():
                        del running[slot]
                        if not job.done:
                            failed[job] = process.reason()
                            context.log.error(f"{job.label}: {failed[job]}")
                time.sleep(0.1)
        finally:
            for _, process in running.values():
                process.terminate()
            for _, process in running.values():
                process.wait()
        return failed

    def _run_on_ray(self, context: dg.AssetExecutionContext, descriptions: dict[Job, Path]) -> dict[Job, str]:
        """Run trainings with Ray's `TorchTrainer`, one after the other. Returns job -> reason of failure."""
        from pipelines.engine.ray_training import RayTrainingError, train_on_ray

        failed: dict[Job, str] = {}
        with self.cluster():
            for job, description in descriptions.items():
                context.log.info(f"{job.label}: {self.processes_per_training} processes on the Ray cluster")
                try:
                    train_on_ray(description, self.processes_per_training)
                except RayTrainingError as error:
                    failed[job] = str(error)
                    context.log.error(f"{job.label}: {error}")
        return failed

    def cluster(self) -> AbstractContextManager[None]:
        """A context with a connection to the Ray cluster.

        Raises:
            dagster.Failure: Ray is not installed, or no cluster answers.
        """
        from pipelines.engine.resource import cluster

        return cluster(self.address)

    def _command(self, description: Path) -> list[str]:
        if self.processes_per_training == 1:
            return [sys.executable, "-m", MODULE, "--config", str(description)]
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes_per_training}"]
        return [sys.executable, *torchrun, "-m", MODULE, "--config", str(description)]

    def environment(self, slot: int) -> dict[str, str]:
        """Environment variables that give a training its threads and GPUs."""
        import torch

        processes = self.parallel * self.processes_per_training
        environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)), **os.environ}
        if torch.cuda.is_available():
            named = os.environ.get("CUDA_VISIBLE_DEVICES")
            gpus = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus_of(slot, gpus, self.processes_per_training))
        return environment


def gpus_of(slot: int, gpus: Sequence[str], per_training: int) -> list[str]:
    """The GPUs of the training in a slot. If there are more slots than groups of GPUs, slots share them in turn.

    Raises:
        dagster.Failure: a training needs more GPUs than the machine has.
    """
    if per_training > len(gpus):
        raise dg.Failure(
            f"Expected at least {per_training} GPUs for resources.launcher.config.processes_per_training, got "
            f"{len(gpus)}.",
            allow_retries=False,
        )
    first = slot % (len(gpus) // per_training) * per_training
    return list(gpus[first : first + per_training])


class _Process:
    """A running training, with the Dagster Pipes session that receives its reports."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        label: str,
        description: Path,
        command: Sequence[str],
        environment: dict[str, str],
    ) -> None:
        self._folder = description.parent
        self._stack = ExitStack()
        injector, reader = dg.PipesTempFileContextInjector(), dg.PipesTempFileMessageReader()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Dagster's own code uses deprecated and preview APIs
            session = self._stack.enter_context(
                dg.open_pipes_session(context, injector, reader, extras={"label": label})
            )
        output = self._stack.enter_context((self._folder / "output.log").open("wb"))
        self._process = subprocess.Popen(
            command,
            env={**environment, VERSION: code_version(MODULE), **session.get_bootstrap_env_vars()},
            stdin=subprocess.PIPE,  # nothing is written to it; the process ends when it is closed
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def ended(self) -> bool:
        if self._process.poll() is None:
            return False
        self._close()
        return True

    def reason(self) -> str:
        """Why it failed."""
        error, output = self._folder / ERROR, self._folder / "output.log"
        if error.exists():
            return error.read_text()
        last = "\n".join(output.read_text(errors="replace").splitlines()[-20:])
        return f"The process ended with {self._process.returncode}; {output} ends with:\n{last}"

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self) -> None:
        """Wait until the process has ended; kill it if it does not end in time."""
        try:
            self._process.wait(timeout=_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._stack.close()


def _check_methods(jobs: Sequence[Job], recipe: Recipe, base_model: BaseModel) -> None:
    from hydralora.methods import MethodError, get_method
    from hydralora.training import TrainingError, plan_run

    if not jobs:
        return
    skeleton = base_model.skeleton()
    for job in jobs:
        try:
            steps = plan_run(job.documents, job.training.config(recipe)).num_steps
            get_method(job.training.method).config(skeleton, replace(job.training.settings(recipe), total_steps=steps))
        except (MethodError, TrainingError) as error:
            raise dg.Failure(f"{job.label}: {error}", allow_retries=False) from None


def _save_tokens(jobs: Sequence[Job]) -> dict[int, Path]:
    """Save the tokens to disk, once for all jobs with the same documents. Returns id(documents) -> folder."""
    paths: dict[int, Path] = {}
    for job in jobs:
        if id(job.documents) not in paths:
            paths[id(job.documents)] = job.folder / FOLDER / "tokens"
            job.documents.save(paths[id(job.documents)])
    return paths
