"""A job whose configuration is complete: Launch works with one click, and nothing can be left out."""

from pathlib import Path

import dagster as dg

from pipelines.components.changes import change_sensors
from pipelines.components.scaffolding import JobScaffolder
from pipelines.jobs import JOBS, for_job
from pipelines.run_configuration import ConfigurationError, read_configuration
from pipelines.store.run_values import FIXED_TAG, JOB_TAG, digest


@dg.scaffold_with(JobScaffolder)
class ConfiguredJob(dg.Component, dg.Model, dg.Resolvable):
    """One of the jobs, bound to a run configuration."""

    name: str
    """Of the job in the web UI."""
    configuration: str
    """File with the run configuration, relative to this file. Of one for the main job, another job takes its part."""
    job: str = "hydralora"
    """Which job it is for."""
    automatic: bool = False
    """Start it whenever its sources' files, its configuration or the code of its assets change. The switch is also in
    the UI, under Automation."""

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The job, and the sensor that starts it.

        Raises:
            ConfigurationError: no such job or file, or a file that is no run configuration.
        """
        path = Path(context.path) / self.configuration
        of_name = {job.name: job for job in JOBS}
        if self.job not in of_name or self.name in of_name:
            raise ConfigurationError(
                f"{context.path}: expected `job` to be one of {', '.join(of_name)} and `name` another, got "
                f"{self.job!r} and {self.name!r}."
            )
        values = for_job(read_configuration(path), self.job)
        job = dg.define_asset_job(
            self.name,
            selection=of_name[self.job].selection,
            config=values,
            tags={JOB_TAG: self.job, FIXED_TAG: digest(values)},
            description=f"{of_name[self.job].description} Configured by {path.name}.",
        )
        return dg.Definitions(jobs=[job], sensors=change_sensors(self.name, values, self.automatic))
