"""`dg scaffold defs pipelines.components.ConfiguredJob NAME`: a configured job that loads as it is."""

import os
import re
from contextlib import suppress
from pathlib import Path

import click
import dagster as dg
from pydantic import BaseModel, Field

from pipelines.jobs import JOBS

EXAMPLE = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
OWN = "run.yaml"
"""The configuration beside `defs.yaml` of a job that was scaffolded without one."""


class Parameters(BaseModel):
    """Options of the command."""

    configuration: str | None = Field(
        None, description="Run configuration, as `hydralora init` writes; without it NAME/run.yaml is made, to edit."
    )
    job: str = Field("hydralora", description=f"Which job it is for: {', '.join(job.name for job in JOBS)}.")


class JobScaffolder(dg.Scaffolder[Parameters]):
    """Writes `defs.yaml`, and `run.yaml` beside it if no configuration is named."""

    @classmethod
    def get_scaffold_params(cls) -> type[Parameters]:
        """The options of the command."""
        return Parameters

    def scaffold(self, request: dg.ScaffoldRequest[Parameters]) -> None:
        """Write the files.

        Raises:
            click.ClickException: the job or the configuration does not exist, or NAME is the name of a general job.
        """
        folder, wanted = request.target_path, request.params
        name, jobs = re.sub(r"\W", "_", folder.name), [job.name for job in JOBS]
        if wanted.job not in jobs or name in jobs:
            _refuse(folder, f"expected --job among {', '.join(jobs)} and another NAME, got {wanted.job} and {name}")
        if wanted.configuration is None:
            own = EXAMPLE.read_text().replace("outputs/quickstart", f"outputs/{name}")
            (folder / OWN).write_text(own.replace("3001/quickstart", f"3001/{name}"))
        elif not Path(wanted.configuration).is_file():
            _refuse(folder, f"--configuration: expected a file, got {Path(wanted.configuration).resolve()}")
        path = OWN if wanted.configuration is None else os.path.relpath(wanted.configuration, folder)
        attributes = {"name": name, "configuration": path, "job": wanted.job, "automatic": False}
        dg.scaffold_component(request, attributes)


def _refuse(folder: Path, sentence: str) -> None:
    with suppress(OSError):
        folder.rmdir()  # dg made it; with it the next try would end in "already exists"
    raise click.ClickException(sentence)
