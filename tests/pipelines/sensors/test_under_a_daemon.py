"""Sensors and a backfill under a real `dagster dev` with its daemon, on real files. Some minutes; nothing is mocked."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml

from pipelines.definitions import build_defs
from pipelines.home import prepare
from pipelines.store.io_manager import ArtifactStore
from tests.pipelines.small_corpus import corpus_ops, resources

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[3]
LOCATION = """
import dagster as dg
from pipelines.components import ConfiguredJob
from pipelines.definitions import build_defs
context = dg.ComponentTree.for_test().load_context
defs = dg.Definitions.merge(build_defs(), ConfiguredJob(**{attributes!r}).build_defs(context))
"""
SECONDS = 400.0


@contextmanager
def dagster_dev(folder: Path, attributes: dict[str, Any], **environment: str) -> Iterator[Callable[..., str]]:
    """`dagster dev` with one configured job; gives a function that runs further Dagster commands beside it."""
    location = folder / "location.py"
    location.write_text(LOCATION.format(attributes=attributes))
    home = folder / "home"
    prepare(home)
    values = {**os.environ, **environment, "DAGSTER_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dagster"]

    def run(*arguments: str) -> str:
        named = [*command, *arguments, "-f", str(location)]
        done = subprocess.run(named, cwd=ROOT, env=values, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with (folder / "dev.log").open("w") as log:
        dev = subprocess.Popen(
            [*command, "dev", "-f", str(location), "-h", "127.0.0.1", "-p", port],
            cwd=ROOT, env=values, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            yield run
        finally:
            dev.send_signal(signal.SIGINT)
            try:
                dev.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(dev.pid, signal.SIGKILL)


def finished(folder: Path, job: str, n_runs: int = 1) -> list[dg.DagsterRun]:
    """The runs of a job, newest first, as soon as so many have ended well."""
    until = time.time() + SECONDS
    while time.time() < until:
        with dg.DagsterInstance.from_config(str(folder / "home")) as instance:
            runs = list(instance.get_runs(dg.RunsFilter(job_name=job)))
        failed = [run for run in runs if run.status == dg.DagsterRunStatus.FAILURE]
        assert not failed, (folder / "dev.log").read_text()[-3000:]
        if len([run for run in runs if run.status == dg.DagsterRunStatus.SUCCESS]) >= n_runs:
            return runs
        time.sleep(3)
    raise AssertionError(f"{job}: {n_runs} runs not within {SECONDS} s: {(folder / 'dev.log').read_text()[-3000:]}")


def sources_of(run: dg.DagsterRun, op: str) -> list[str]:
    ops: Any = run.run_config["ops"]
    return [source["name"] for source in ops[op]["config"]["sources"]]


def test_changes_new_files_and_drift_start_their_jobs(tmp_path: Path, shared_corpora: Path) -> None:
    def records(name: str, path: Path, n: int = 300) -> Path:
        sample = pl.read_parquet(shared_corpora / f"{name}_train.parquet").select("instruction", "output")
        path.parent.mkdir(exist_ok=True)
        sample.sample(n, seed=1).write_ndjson(path)
        os.utime(path, (time.time() - 60,) * 2)  # the sensor waits until nobody writes a file any more
        return path

    files = {name: records(name, tmp_path / f"{name}.jsonl") for name in ("gsm8k", "medquad")}
    sources = [{"name": name, "read": {"files": {"paths": [str(path)]}}} for name, path in files.items()]
    store = tmp_path / "store"
    values = {
        "execution": {"config": {"in_process": {}}},
        "resources": {"store": {"config": {"directory": str(store)}}},
        "ops": {"raw_documents": {"config": {"sources": sources}}},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(values))
    attributes = {"name": "own", "configuration": str(tmp_path / "own.yaml"), "job": "corpus", "automatic": True}
    incoming = tmp_path / "incoming"
    named = {"HYDRALORA_NEW_FILES": str(incoming), "HYDRALORA_STORE": str(store)}
    with dagster_dev(tmp_path, attributes, **named) as command:
        first = finished(tmp_path, "own")[0]
        records("legalbench", incoming / "contracts.jsonl")
        command("sensor", "start", "new_files")
        assigned = finished(tmp_path, "assign")[0]
        assert sources_of(assigned, "new_document_labels") == ["contracts"]
        assert assigned.run_config["resources"]["store"]["config"]["from_run"] == first.run_id
        drifted = finished(tmp_path, "corpus")[0]
        assert sources_of(drifted, "raw_documents") == ["gsm8k", "medquad", "contracts"]
        before = ArtifactStore(directory=str(store)).last("raw_documents").fingerprint
        with files["gsm8k"].open("a") as file:
            file.write(json.dumps({"prompt": "How many is two and two?", "completion": "4"}) + "\n")
        assert len(finished(tmp_path, "own", 2)) == 2
        assert ArtifactStore(directory=str(store)).last("raw_documents").fingerprint != before
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        assert instance.get_runs_count() == 4


def test_a_backfill_trains_each_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRALORA_CACHE", str(tmp_path / "cache"))
    parts = {"validation_documents_per_source": 3, "held_out_documents_per_source": 5}
    domains = {"domains": {"general": ["reversals"]}, **parts}
    given = resources(tmp_path, recipe={"max_steps": 4, "tokens_per_step": 64})
    made = prepared(tmp_path, given, domains)
    values = {
        "execution": {"config": {"in_process": {}}},
        "resources": {**given, "store": {"config": {"directory": str(tmp_path / "store"), "inputs": made}}},
        "ops": {"study_run": {"config": {**domains, "domain": "general"}}},
    }
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(values))
    attributes = {"name": "runs_of_mine", "configuration": str(tmp_path / "one.yaml"), "job": "one_run"}
    keys = [f"{method}:seed-{seed}:0.004" for method in ("lora_r8", "lora_r16") for seed in (0, 1)]
    with dagster_dev(tmp_path, attributes) as command:
        command("job", "backfill", "-j", "runs_of_mine", "--partitions", ",".join(keys), "--noprompt")
        runs = finished(tmp_path, "runs_of_mine", len(keys))
    assert sorted(run.tags["dagster/partition"] for run in runs) == sorted(keys)
    assert len([path for path in (tmp_path / "store" / "method_runs").iterdir() if path.is_dir()]) == len(keys)


def prepared(folder: Path, given: dict[str, Any], domains: dict[str, Any]) -> dict[str, str]:
    """Asset -> fingerprint of what the job `study` makes before its runs."""
    names = ("corpus_documents", "document_features", "tokenised_documents")
    ops = corpus_ops(folder)
    ops["study_runs"] = {"config": {**domains, "experiments": ["table_1"], "measure_energy": False}}
    job = build_defs().resolve_job_def("study")
    wanted = [dg.AssetKey(name) for name in ("raw_documents", *names)]
    ops = {name: op for name, op in ops.items() if dg.AssetKey(name) in wanted}
    assert job.execute_in_process(run_config={"resources": given, "ops": ops}, asset_selection=wanted).success
    store = ArtifactStore(directory=str(folder / "store"))
    return {name: store.last(name).fingerprint for name in names}
