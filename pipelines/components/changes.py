"""Changes start a configured job: other files, another configuration, other code; and drift starts the job `corpus`.

Dagster's automation conditions start assets without a configuration, which these need; so each configured job has a
sensor. It is off until it is switched on: `automatic: true` in the job's `defs.yaml`, or Automation in the web UI.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from pipelines.jobs import corpus_job
from pipelines.store.artifacts import fingerprint_of
from pipelines.store.io_manager import store_of
from pipelines.store.run_values import HOW_RUN

DRIFT = dg.AssetCheckKey(dg.AssetKey("new_document_labels"), "num_clusters_stands")


def change_sensors(job: str, values: Mapping[str, Any], automatic: bool) -> list[dg.SensorDefinition]:
    """Two sensors: `<job>_changes` starts the job after a change, `<job>_drift` the job `corpus` after drift.

    Args:
        job: name of the configured job.
        values: its run configuration.
        automatic: whether they are on from the start.
    """
    status = dg.DefaultSensorStatus.RUNNING if automatic else dg.DefaultSensorStatus.STOPPED
    common: dict[str, Any] = {"minimum_interval_seconds": 60, "default_status": status}

    @dg.sensor(name=f"{job}_changes", job_name=job, **common)
    def changes(context: dg.SensorEvaluationContext) -> dg.RunRequest:
        """Starts the job again when its files, its configuration or the code of its assets changed."""
        assert context.repository_def is not None
        return dg.RunRequest(run_key=fingerprint_of(state(context.repository_def, job, values)))

    @dg.sensor(name=f"{job}_drift", job_name=corpus_job.name, **common)
    def drift(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """Starts the job corpus with the new documents, when these no longer fit the corpus."""
        assert context.repository_def is not None
        found = after_drift(context.instance, context.repository_def, values)
        return found or dg.SkipReason("No new documents of this corpus call for another N.")

    return [changes, drift]


def state(repository: dg.RepositoryDefinition, job: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A result of the job depends on these: configuration, code of its assets, and its files by size and time."""
    layer = repository.get_job(job).asset_layer
    code = {key.to_user_string(): layer.get(key).code_version for key in layer.executable_asset_keys}
    return {"configuration": values, "code": dict(sorted(code.items())), "files": _files(values)}


def after_drift(
    instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, values: Mapping[str, Any]
) -> dg.RunRequest | None:
    """A run of `corpus` with the documents that drifted from the corpus in this configuration's store, if any did."""
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([DRIFT]).get(DRIFT)
    event = record.event.dagster_event if record and record.event else None
    if record is None or event is None or event.asset_check_evaluation_data.passed:
        return None
    run = instance.get_run_by_id(record.run_id)
    if run is None or store_of(run.run_config).path.resolve() != store_of(values).path.resolve():
        return None
    job = repository.get_job(corpus_job.name)
    ops = {name: value for name, value in values["ops"].items() if name in job.graph.node_dict}
    raw = ops["raw_documents"]["config"]
    assigned: Any = run.run_config["ops"]
    new = assigned["new_document_labels"]["config"]["sources"]
    ops["raw_documents"] = {"config": {**raw, "sources": [*raw["sources"], *new]}}
    resources = {name: value for name, value in values["resources"].items() if name in ("store", "base_model")}
    how = {name: values[name] for name in HOW_RUN if name in values}
    return dg.RunRequest(run_key=f"drift:{record.run_id}", run_config={**how, "resources": resources, "ops": ops})


def _files(values: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Path, size and time of the files that the sources read; a path that is not there yet counts as no file."""
    from analysis.sources import matching_files
    from pipelines.corpus.sources import expanded

    found = []
    for source in values["ops"].get("raw_documents", {}).get("config", {}).get("sources", []):
        for path in source["read"].get("files", {}).get("paths", []):
            for file in matching_files(expanded(path)):
                about = file.stat()
                found.append((str(file), about.st_size, about.st_mtime_ns))
    return sorted(found)
