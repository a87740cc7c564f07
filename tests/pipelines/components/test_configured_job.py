"""A job with one complete configuration, and the sensors that start it."""

import json
import os
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from pipelines.components import ConfiguredJob
from pipelines.components.changes import after_drift, state
from pipelines.definitions import build_defs
from pipelines.run_configuration import ConfigurationError
from pipelines.store.run_values import JOB_TAG
from tests.pipelines.small_corpus import corpus_ops


def corpus(folder: Path) -> dict[str, Any]:
    """A configuration of the job corpus."""
    ops = corpus_ops(folder)
    del ops["tokenised_documents"]
    ops["cluster_sweep"] = {"config": {"max_clusters": 4, "n_init": 1}}
    return {"resources": {"store": {"config": {"directory": str(folder / "store")}}}, "ops": ops}


def defs_of(folder: Path, values: dict[str, Any], **more: Any) -> dg.Definitions:
    """The code location with one configured job, `small`."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    component = ConfiguredJob(name="small", configuration=str(path), job="corpus", **more)
    own = component.build_defs(dg.ComponentTree.for_test().load_context)
    return dg.Definitions.merge(build_defs(), own)


def test_one_click_launches_it_and_another_configuration_is_refused(tmp_path: Path) -> None:
    values = corpus(tmp_path)
    job = defs_of(tmp_path, values).resolve_job_def("small")
    assert job.run_config == values
    assert job.tags[JOB_TAG] == "corpus"
    assert job.execute_in_process().success
    other = json.loads(json.dumps(values))
    other["ops"]["cluster_sweep"]["config"]["max_clusters"] = 5
    refused = job.execute_in_process(run_config=other, raise_on_error=False)
    event = next(event for event in refused.all_events if event.is_step_failure)
    described = event.step_failure_data.user_failure_data
    assert described is not None
    assert str(described.description).startswith("The job small has one complete configuration, got another.")


def test_the_sensors_are_off_until_they_are_switched_on(tmp_path: Path) -> None:
    for on in (False, True):
        sensors = {sensor.name: sensor for sensor in defs_of(tmp_path, corpus(tmp_path), automatic=on).sensors or []}
        running = {name for name, one in sensors.items() if one.default_status == dg.DefaultSensorStatus.RUNNING}
        assert {"small_changes", "small_drift"} <= set(sensors)
        assert running - {"dead_runs"} == ({"small_changes", "small_drift"} if on else set())


def test_a_file_that_changes_changes_the_state(tmp_path: Path) -> None:
    values = corpus(tmp_path)
    repository = defs_of(tmp_path, values).get_repository_def()
    before = state(repository, "small", values)
    assert before == state(repository, "small", values)
    assert set(before["code"]) >= {"raw_documents", "expert_assignment", "corpus_report"}
    os.utime(tmp_path / "sums.jsonl", (1, 1))
    assert state(repository, "small", values)["files"] != before["files"]


def test_drift_asks_for_the_corpus_with_the_new_documents(tmp_path: Path) -> None:
    values = corpus(tmp_path)
    repository = defs_of(tmp_path, values).get_repository_def()
    store = values["resources"]["store"]["config"]["directory"]
    source = {"name": "new", "read": {"files": {"paths": [str(tmp_path / "sums.jsonl")]}}}
    with dg.DagsterInstance.ephemeral() as instance:
        assert after_drift(instance, repository, values) is None
        for directory, asked in (("elsewhere", False), (store, True)):
            run = instance.create_run_for_job(
                repository.get_job("assign"),
                run_config={
                    "resources": {"store": {"config": {"directory": directory}}},
                    "ops": {"new_document_labels": {"config": {"sources": [source]}}},
                },
            )
            check = dg.AssetCheckEvaluation(
                dg.AssetKey("new_document_labels"), "num_clusters_stands", passed=False, metadata={}
            )
            _record(instance, run.run_id, check)
            request = after_drift(instance, repository, values)
            assert (request is not None) == asked
    assert request is not None
    assert [one["name"] for one in request.run_config["ops"]["raw_documents"]["config"]["sources"]][-1] == "new"
    assert dg.validate_run_config(repository.get_job("corpus"), request.run_config)


def _record(instance: dg.DagsterInstance, run_id: str, check: dg.AssetCheckEvaluation) -> None:
    event = dg.DagsterEvent(
        dg.DagsterEventType.ASSET_CHECK_EVALUATION.value, "assign", event_specific_data=check, step_key="x"
    )
    instance.report_dagster_event(event, run_id)


@pytest.mark.parametrize("given", [{"job": "corpse"}, {"name": "corpus"}])
def test_names_of_jobs(tmp_path: Path, given: dict[str, str]) -> None:
    component = ConfiguredJob(**{"name": "small", "configuration": "x.yaml", **given})
    with pytest.raises(ConfigurationError, match="expected `job` to be one of hydralora, corpus"):
        component.build_defs(dg.ComponentTree.for_test().load_context)
