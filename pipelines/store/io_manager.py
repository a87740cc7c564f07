"""The store: where artifacts live, and how assets exchange them."""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from pipelines.store.artifacts import Artifact, ArtifactError, artifact_of
from pipelines.store.files.disk import is_disk_full, nearest_existing
from pipelines.store.runs import last_made, made_by, newest, record_run

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class ArtifactStore(dg.ConfigurableIOManager):
    """Folder of content-addressed artifacts, and the IO manager that passes them between assets.

    Assets exchange the `Artifact` itself, which is a path and a fingerprint. Its tables are Parquet and are read
    lazily, its models are safetensors, and nothing is pickled.

    A step gets exactly what the upstream step of its own run returned. A run that starts in the middle of the graph
    gets the artifacts that `from_run` or `inputs` name. There is no default, because the newest artifact may come from
    another run.
    """

    directory: str = "outputs/default"
    """Folder of the store, made if it is missing."""
    from_run: str | None = None
    """Id of an earlier run (its first digits are enough). Inputs that this run does not make come from it."""
    inputs: dict[str, str] = {}
    """Asset -> fingerprint, for inputs that `from_run` does not name."""

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.directory)

    def last(self, asset: str) -> Artifact:
        """The artifact of an asset that `inputs` names, else the newest. For people who look at results."""
        if asset in self.inputs:
            return artifact_of(self.path, asset, self.inputs[asset])
        return last_made(self.path, asset)

    def after(self, made: Mapping[str, str]) -> "ArtifactStore":
        """This store with the results of one run, whatever other runs write into it.

        Args:
            made: asset -> fingerprint of what the run made.
        """
        given = {} if self.from_run is None else made_by(self.path, self.from_run)
        return ArtifactStore(directory=self.directory, inputs={**given, **self.inputs, **made})

    def handle_output(self, context: dg.OutputContext, obj: Artifact) -> None:
        """Record what the run made. Runs on a read-only store are not recorded."""
        partition = context.partition_key if context.has_partition_key else None
        try:
            record_run(self.path, context.run_id, obj, partition)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                # The clean-up would remove an artifact that no run records.
                what = "No space left on the device" if is_disk_full(error, nearest_existing(self.path)) else str(error)
                raise dg.Failure(
                    f"{what} while writing {self.path / 'runs' / context.run_id}. Mend that (free some space) and run "
                    f"again; what is built is kept.",
                    allow_retries=False,
                ) from None
            context.log.debug(f"{self.path} is read-only, so this run is not recorded there: {error}")

    def load_input(self, context: dg.InputContext) -> Artifact:
        """The undamaged artifact of the upstream asset.

        Raises:
            dagster.Failure: the run did not make the artifact and the configuration does not name it, or it is damaged.
        """
        asset = context.asset_key.path[-1]
        try:
            return artifact_of(self.path, asset, self._fingerprint(context, asset))
        except ArtifactError as error:
            raise dg.Failure(str(error), allow_retries=False) from None

    def _fingerprint(self, context: dg.InputContext, asset: str) -> str:
        assert context.upstream_output is not None
        if context.upstream_output.step_key != "none":
            return _returned(context, context.upstream_output.run_id)
        if asset in self.inputs:
            return self.inputs[asset]
        made = {} if self.from_run is None else made_by(self.path, self.from_run)
        if asset in made:
            return made[asset]
        named = f"Run {self.from_run} did not make {asset}" if self.from_run else "The configuration names neither"
        raise ArtifactError(
            f"This run does not make {asset}. Expected its fingerprint in resources.store.config.inputs, or a run that "
            f"made it in resources.store.config.from_run. {named}. {newest(self.path)}"
        )


def _returned(context: dg.InputContext, run_id: str) -> str:
    """The fingerprint that the upstream step of a run returned: the data version of its materialization."""
    records = context.instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    for record in reversed(records):
        event = record.event_log_entry.get_dagster_event()
        if event.asset_key == context.asset_key:
            tags = event.step_materialization_data.materialization.tags or {}
            return tags["dagster/data_version"]
    raise ArtifactError(f"Run {run_id} has no materialization of {context.asset_key.to_user_string()}.")


def store_of(config: Path | Mapping[str, Any]) -> ArtifactStore:
    """The store that a run configuration, or the file of one, writes to."""
    values = yaml.safe_load(config.read_text()) if isinstance(config, Path) else config
    return ArtifactStore(**values.get("resources", {}).get("store", {}).get("config", {}))
