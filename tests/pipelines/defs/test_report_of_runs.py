"""What the asset `report` adds to `analysis.report`: changes since the last run, provenance, served links."""

import json
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from analysis.report import ReportInputs, write_report
from pipelines.definitions import build_defs
from pipelines.defs.results.report import _link, compare_with_previous
from pipelines.report.inputs import energy_table, provenance, serving_words, stages_table
from pipelines.store.artifacts import Artifact, build_artifact
from pipelines.store.io_manager import ArtifactStore
from tests.pipelines.small_corpus import corpus_ops, resources

RECORD = {
    "config": {"seed": 3, "learning_rate": 0.003},
    "peft_config": {"r": 7, "lora_alpha": 14, "num_experts": 5, "target_modules": ["q_proj", "v_proj"]},
    "base_model": {"name": "embedded", "weights": "abcd"},
    "data": {"fingerprint": "0123", "documents": 5000, "template": "plain", "max_length": 192},
    "steps": 6,
    "tokens": 6480,
    "seconds": 12.5,
    "remembered_batches": 0,
    "energy": None,
    "environment": {
        "python": "3.11.7", "packages": {"torch": "2.13.0"}, "platform": "Linux", "cpu": "a CPU", "gpus": ["a GPU"],
    },
}  # fmt: skip


def reported(store: ArtifactStore, n_experts: int) -> Artifact:
    """A report of nothing but a choice of N."""
    choice = {"num_clusters": n_experts, "reason": f"It is {n_experts}."}
    inputs = ReportInputs(title="a run", command="make run", choice=choice)
    return build_artifact(
        store.path,
        "report",
        build=lambda draft: write_report(inputs, draft.folder) and None,
        code_version="1",
        config={"n": n_experts},
        inputs={},
    )  # fmt: skip


def remember(store: ArtifactStore, artifact: Artifact) -> None:
    store.handle_output(dg.build_output_context(run_id="a-run"), artifact)


def test_a_second_run_is_compared_with_the_first(tmp_path: Path) -> None:
    store = ArtifactStore(directory=str(tmp_path))
    first = reported(store, 4)
    assert compare_with_previous(store, first) is None
    remember(store, first)
    assert compare_with_previous(store, first) is None  # nothing changed
    page = compare_with_previous(store, reported(store, 5))
    assert page is not None
    words = page.path("comparison.html").read_text("utf-8")
    assert "4 clusters at the elbow" in words
    assert "5 clusters at the elbow" in words


def test_links_are_of_the_server_where_there_is_one(tmp_path: Path) -> None:
    store = ArtifactStore(directory=str(tmp_path))
    artifact = reported(store, 4)
    served = _link("http://localhost:3001/quickstart/", artifact, "report.html")
    assert served.value == f"http://localhost:3001/quickstart/report/{artifact.fingerprint}/report.html"
    assert _link(None, artifact, "report.html").value == str(artifact.folder / "report.html")


def test_provenance_names_base_model_data_settings_and_code(tmp_path: Path) -> None:
    store = ArtifactStore(directory=str(tmp_path))
    found = provenance({"report": reported(store, 4)}, {"hydralora": RECORD})
    assert found["base model"] == "embedded, weights abcd"
    assert found["adapter"] == "r 7, lora_alpha 14, num_experts 5, target_modules q_proj v_proj"
    assert found["training of hydralora"].startswith(
        "seed 3, 6,480 tokens in 6 steps, rate 0.003, 5,000 documents 0123"
    )
    assert found["code of report"] == "1"
    assert found["hardware"] == "a CPU, a GPU"


def test_times_are_told_where_energy_was_not_measured(tmp_path: Path) -> None:
    use = {"cpu_kwh": 0.25, "gpu_kwh": 0.5, "ram_kwh": 0.25}
    table = energy_table({"hydralora": RECORD, "lora": {**RECORD, "energy": use}})
    assert table["energy_kwh"].to_list() == [None, 1.0]
    assert table["seconds"].to_list() == [12.5, 12.5]
    assert table["remembered_batches"].to_list() == [0, 0]
    store = ArtifactStore(directory=str(tmp_path))
    stages = stages_table({"report": reported(store, 4)}).table
    assert stages["stage"].to_list() == ["report"]
    assert json.loads(stages.select("wall_seconds").write_json())[0]["wall_seconds"] >= 0


def test_serving_says_what_the_worst_export_costs(tmp_path: Path) -> None:
    table = pl.DataFrame({"domain": ["law", "code", "others"], "difference": [0.01, 0.2, -0.1]})
    table.write_parquet(tmp_path / "exports.parquet")
    words = serving_words(Artifact("domain_exports", "0", tmp_path))
    assert "3 plain LoRAs" in words
    assert "code, +0.2000 nats" in words


def run_hydralora(folder: Path, title: str) -> dg.ExecuteInProcessResult:
    ops = {
        "component_adapters": {"max_tokens": 300, "parts": 2},
        "parameter_breakdown": {"umap": False},
        "routing_analysis": {"max_documents_per_source": 4, "examples": 2},
        "domain_exports": {"max_documents_per_domain": 4},
        "report": {"title": title, "url": "http://localhost:3001/test"},
    }
    config = {
        "resources": resources(folder),
        "ops": corpus_ops(folder) | {name: {"config": value} for name, value in ops.items()},
    }
    return build_defs().resolve_job_def("hydralora").execute_in_process(run_config=config)


@pytest.mark.slow
def test_the_main_job_twice_gives_two_reports_and_a_page_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRALORA_CACHE", str(tmp_path / "cache"))
    metadata = []
    for title in ("one", "two"):
        result = run_hydralora(tmp_path, title)
        metadata.append(result.asset_materializations_for_node("report")[0].metadata)
    assert "changes_since_previous" not in metadata[0]
    link = metadata[1]["changes_since_previous"].value
    page = (tmp_path / "store" / link.removeprefix("http://localhost:3001/test/")).read_text("utf-8")
    assert "<h1>one and two</h1>" in page
    report = (tmp_path / "store" / metadata[1]["report"].value.removeprefix("http://localhost:3001/test/")).read_text()
    for words in (
        "3 experts, one for each source",
        "Not enough to tell",
        "What to do next",
        "hydralora run",
        "One LoRA for each domain",
        "Time of each stage",
        "training of lora_matched",
    ):
        assert words in report
