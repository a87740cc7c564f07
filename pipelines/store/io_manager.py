"""The store: where artifacts live, and how they pass from asset to asset."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from pipelines.store.artifacts import Artifact, ArtifactError, Draft, build_artifact

LATEST = "latest.json"


class ArtifactStore(dg.ConfigurableIOManager):
    """Folder of content-addressed artifacts; also the IO manager that hands them from asset to asset.

    What passes between two assets is the `Artifact` itself (a path and a fingerprint): tables inside are Parquet and
    read lazily by whoever needs them, models are safetensors, and nothing is pickled. A job that starts in the middle
    of the graph takes the latest artifact of each asset above it.
    """

    directory: str = "outputs/default"

    def build(
        self,
        asset: str,
        build: Callable[[Draft], None],
        *,
        code_version: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Artifact] | None = None,
    ) -> Artifact:
        """See `pipelines.store.artifacts.build_artifact`."""
        return build_artifact(
            Path(self.directory), asset, code_version=code_version, config=config, inputs=inputs or {}, build=build
        )

    def latest(self, asset: str) -> Artifact:
        """The artifact that the last run of `asset` gave.

        Raises:
            ArtifactError: it was never run in this folder, or its files are gone.
        """
        pointer = Path(self.directory) / asset / LATEST
        if not pointer.exists():
            raise ArtifactError(
                f"Expected an artifact of {asset!r} in {Path(self.directory).resolve()}, got none. Materialize {asset} "
                f"first (the job `hydralora` runs everything), or set resources.store.config.directory to the folder "
                f"of an earlier run."
            )
        fingerprint = json.loads(pointer.read_text())["fingerprint"]
        folder = pointer.parent / fingerprint
        if not folder.exists():
            raise ArtifactError(f"{pointer} names {fingerprint}, which is gone. Materialize {asset} again.")
        return Artifact(asset, fingerprint, folder, reused=True)

    def handle_output(self, context: dg.OutputContext, obj: Artifact) -> None:
        """Remember `obj` as the latest of its asset."""
        pointer = Path(self.directory) / obj.asset / LATEST
        temporary = pointer.with_suffix(".tmp")
        temporary.write_text(json.dumps({"fingerprint": obj.fingerprint}) + "\n")
        os.replace(temporary, pointer)

    def load_input(self, context: dg.InputContext) -> Artifact:
        """The latest artifact of the upstream asset."""
        return self.latest(context.asset_key.path[-1])
