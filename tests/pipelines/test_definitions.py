"""The asset graph as a diff would show it, and what every asset must say of itself."""

from pathlib import Path

import dagster as dg
import pytest
import yaml

from pipelines.definitions import defs
from pipelines.jobs import JOBS

CONFIGS = sorted((Path(__file__).parents[2] / "pipelines" / "configs").glob("*.yaml"))

LINEAGE = """
baseline_adapters <- cluster_labels, corpus_documents, expert_assignment, hydralora_adapter, num_clusters, \
tokenised_documents
cluster_labels <- corpus_documents, document_features, num_clusters
cluster_names <- cluster_labels, corpus_documents, document_features
cluster_sweep <- corpus_documents, document_features
comparison_documents <- cluster_labels, corpus_documents, expert_assignment, tokenised_documents
component_adapters <- cluster_labels, corpus_documents, num_clusters, tokenised_documents
corpus_documents <- raw_documents
corpus_report <- cluster_labels, cluster_names, cluster_sweep, corpus_documents, expert_assignment, num_clusters
document_features <- corpus_documents
domain_exports <- cluster_labels, cluster_names, corpus_documents, expert_assignment, hydralora_adapter, \
tokenised_documents
evaluation <- baseline_adapters, cluster_labels, corpus_documents, expert_assignment, hydralora_adapter, \
tokenised_documents
expert_assignment <- cluster_labels, corpus_documents, document_features, num_clusters
hydralora_adapter <- cluster_labels, corpus_documents, expert_assignment, num_clusters, tokenised_documents
learning_rates <- comparison_documents
method_benchmarks <- expert_assignment, method_comparison
method_comparison <- comparison_documents, learning_rates
new_document_labels <- cluster_labels
num_clusters <- cluster_sweep, corpus_documents, document_features
paper_figure_2 <- corpus_documents, document_features, study_benchmarks, study_runs, tokenised_documents
paper_figure_5 <- corpus_documents, document_features, study_benchmarks, study_runs, tokenised_documents
paper_table_1 <- corpus_documents, document_features, study_benchmarks, study_runs, tokenised_documents
paper_table_2 <- corpus_documents, document_features, study_benchmarks, study_runs, tokenised_documents
paper_table_3 <- corpus_documents, document_features, study_benchmarks, study_runs, tokenised_documents
paper_table_4 <- corpus_documents, document_features, study_benchmarks, study_runs, tokenised_documents
paper_table_5 <- corpus_documents, document_features, study_benchmarks, study_runs, tokenised_documents
parameter_breakdown <- component_adapters, hydralora_adapter
raw_documents <-
report <- baseline_adapters, cluster_labels, cluster_names, cluster_sweep, corpus_documents, document_features, \
domain_exports, evaluation, expert_assignment, hydralora_adapter, num_clusters, parameter_breakdown, routing_analysis
routing_analysis <- cluster_labels, corpus_documents, expert_assignment, hydralora_adapter, tokenised_documents
sharded_corpus <-
study_benchmarks <- study_runs
study_run <- corpus_documents, document_features, tokenised_documents
study_runs <- corpus_documents, document_features, tokenised_documents
tokenised_documents <- corpus_documents
""".strip()


def specs() -> list[dg.AssetSpec]:
    return sorted(defs.resolve_all_asset_specs(), key=lambda spec: spec.key)


def test_code_location_loads_as_the_web_ui_loads_it() -> None:
    # Executing one job does not see every clash of names: a job and an asset must not share one.
    dg.Definitions.validate_loadable(defs)


def test_lineage() -> None:
    lines = [
        f"{spec.key.path[-1]} <- {', '.join(sorted(dep.asset_key.path[-1] for dep in spec.deps))}".rstrip()
        for spec in specs()
    ]
    assert "\n".join(lines) == LINEAGE


def test_every_asset_describes_itself_and_is_checked() -> None:
    checked = {key.asset_key for key in defs.resolve_asset_graph().asset_check_keys}
    for spec in specs():
        assert spec.description, spec.key
        assert spec.group_name != "default", spec.key
        assert spec.code_version, spec.key
        assert spec.owners, spec.key
        assert spec.tags["hydralora/stage"] == spec.group_name, spec.key
        assert spec.key in checked


def test_jobs_split_at_the_clusters() -> None:
    keys = {
        job: {key.path[-1] for key in defs.resolve_job_def(job).asset_layer.executable_asset_keys}
        for job in ("hydralora", "corpus", "train", "assign", "sharded")
    }
    # The main job ends in a report of everything, the job `corpus` in one of the corpus alone.
    assert keys["hydralora"] | {"corpus_report"} == keys["corpus"] | keys["train"]
    assert "corpus_report" not in keys["hydralora"] | keys["train"]
    assert not keys["corpus"] & keys["train"]
    assert "cluster_labels" in keys["corpus"]
    assert keys["assign"] == {"new_document_labels"}
    assert keys["sharded"] == {"sharded_corpus"}


def test_no_job_fills_in_what_a_configuration_leaves_out() -> None:
    assert all(not defs.resolve_job_def(job.name).run_config for job in JOBS)


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.name != "dagster.yaml"], ids=lambda path: path.stem)
def test_shipped_configurations_fit_the_job(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    jobs = {"compare": "compare", "study": "study", "paper": "study", "one": "one_run", "sharded": "sharded"}
    job = jobs.get(path.stem.split("-")[0], "hydralora")
    assert dg.validate_run_config(defs.resolve_job_def(job), config)
