"""The job `study` on a model that trains in a second: tables beside the paper's values, partitions, results as JSON."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml

from pipelines.definitions import build_defs
from pipelines.store.io_manager import ArtifactStore
from pipelines.study.experiments import EXPERIMENTS, Cell, planned_cells
from pipelines.study.results import benchmark_means, write_results
from tests.pipelines.small_corpus import corpus_ops, resources

DOMAINS = {"domains": {"general": ["reversals"], "math": ["sums"], "mixed": ["sums", "reversals", "gardens"]}}
CI = Path(__file__).parents[3] / "pipelines" / "configs" / "study-ci.yaml"
PARTS = {"validation_documents_per_source": 3, "held_out_documents_per_source": 5}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRALORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_experiments_share_their_runs() -> None:
    alone = {name: planned_cells([name], ["general", "math", "mixed"]) for name in EXPERIMENTS}
    together = planned_cells(EXPERIMENTS, ["general", "math", "mixed"])
    assert len(together) == len(set(together)) < sum(map(len, alone.values()))
    assert set(together) == {cell for cells in alone.values() for cell in cells}
    # Table 1 trains three ranks and the base; splits are the highest of them.
    assert {cell.method for cell in alone["table_1"]} == {"base", "lora_r8", "lora_r16", "lora_r32"}
    assert Cell("hydralora", "mixed", 10) in alone["table_3"]
    assert planned_cells(["table_2"], ["math"])[0] == Cell("base", "math", 3)


def study(folder: Path, **own: Any) -> dict[str, Any]:
    steps = {"max_steps": 12, "tokens_per_step": 64}
    return {
        "resources": resources(folder, recipe=steps),
        "ops": corpus_ops(folder)
        | {
            "study_runs": {"config": {**DOMAINS, **PARTS, "measure_energy": False, **own}},
        }
        | {f"paper_{name}": {"config": {"resamples": 20}} for name in EXPERIMENTS},
    }


@pytest.mark.slow
def test_tables_and_figures_beside_the_papers_values(tmp_path: Path) -> None:
    config = study(tmp_path)
    assert build_defs().resolve_job_def("study").execute_in_process(run_config=config).success
    store = ArtifactStore(directory=str(tmp_path / "store"))

    ranks = store.last("paper_table_1").read("table")
    losses = dict(ranks.select("method", "loss").iter_rows())
    assert losses["lora_split_4x8"] == losses["lora_split_16x2"] == losses["lora_r32"] != losses["lora_r16"]
    assert dict(ranks.select("method", "printed").iter_rows())["lora_split_8x4"] == 46.94

    methods = store.last("paper_table_2").read("table")
    assert set(methods["domain"]) == {"general", "math"}
    assert set(methods["n_seeds"]) == {1}
    hydra = methods.filter(pl.col("method") == "hydralora", pl.col("domain") == "math").row(0, named=True)
    assert (hydra["printed"], hydra["percent_printed"]) == (22.27, 0.124)

    mixed = store.last("paper_table_3").read("table")
    assert set(mixed["method"]) == {"base", "lora_r8", "lorahub", "lora_moe", "hydralora"}
    costs = store.last("paper_table_4").read("table")
    assert costs["method"].to_list() == ["lora_r8", "lora_r16", "lora_r32", "lora_split_8x4", "hydralora"]
    assert costs["hours"][2] == costs["hours"][3]
    gaps = store.last("paper_figure_2").read("table")
    assert gaps.filter(pl.col("domain") == "mixed")["index"][0] == gaps["index"].max()
    by_n = store.last("paper_figure_5").read("table")
    assert by_n["num_experts"].to_list() == [1, 2, 3, 4, 5, 6, 8]

    (tmp_path / "study-small.yaml").write_text(yaml.safe_dump(config))
    path = write_results(store, tmp_path / "study-small.yaml", tmp_path / "results")
    results = json.loads(path.read_text())
    assert path.name == "study_small.json"
    assert len(results["study_runs"]["runs"]) == len(planned_cells(EXPERIMENTS, DOMAINS["domains"]))
    assert "torch" in results["environment"]["packages"]
    assert "(46.94)" in (tmp_path / "results" / "study_small_paper_table_1_table.md").read_text()


def test_results_keep_the_mean_of_a_benchmark_or_its_only_task() -> None:
    tasks = [("mmlu", "mmlu"), ("mmlu", "mmlu_anatomy"), ("gsm8k", "gsm8k_local"), ("gsm8k", "gsm8k_local")]
    rows = [("math", method, 3, *task) for method in ("base", "hydralora") for task in tasks]
    scores = pl.DataFrame(rows, schema=["domain", "method", "num_experts", "benchmark", "task"], orient="row")
    kept = benchmark_means(scores)
    assert kept["method"].to_list() == ["base"] * 3 + ["hydralora"] * 3
    assert kept["task"].to_list() == ["mmlu", "gsm8k_local", "gsm8k_local"] * 2


def reading(config: dict[str, Any], folder: Path, *assets: str) -> dict[str, Any]:
    """The resources of a run that takes some assets from earlier runs."""
    store = ArtifactStore(directory=str(folder / "store"))
    inputs = {asset: store.last(asset).fingerprint for asset in assets}
    return config["resources"] | {"store": {"config": {"directory": store.directory, "inputs": inputs}}}


@pytest.mark.slow
def test_a_run_of_the_study_is_one_partition(tmp_path: Path) -> None:
    """The partition trains the run that the study then finds done."""
    definitions = build_defs()
    rates = {"lora_r16": [0.001, 0.002]}
    config = study(tmp_path, experiments=["table_1"], domains={"general": ["reversals"]}, rates=rates)
    of_corpus = corpus_ops(tmp_path).keys() - {"tokenised_documents"}
    corpus = {name: op for name, op in config["ops"].items() if name in of_corpus}
    jobs = {name: definitions.resolve_job_def(name) for name in ("corpus", "study", "one_run")}
    assert jobs["corpus"].execute_in_process(run_config={"resources": config["resources"], "ops": corpus}).success
    one = {"study_run": {"config": {**PARTS, "domains": {"general": ["reversals"]}, "domain": "general"}}}
    tokenise = jobs["study"].get_subset(asset_selection={dg.AssetKey("tokenised_documents")})
    tokens = {"tokenised_documents": config["ops"]["tokenised_documents"]}
    selected = {"resources": reading(config, tmp_path, "corpus_documents"), "ops": tokens}
    assert tokenise.execute_in_process(run_config=selected).success
    inputs = ("corpus_documents", "document_features", "tokenised_documents")
    result = jobs["one_run"].execute_in_process(
        run_config={"resources": reading(config, tmp_path, *inputs), "ops": one}, partition_key="lora_r16:seed-0:0.002"
    )
    assert result.success
    (trained,) = [path for path in (tmp_path / "store" / "method_runs").iterdir() if path.is_dir()]

    assert jobs["study"].execute_in_process(run_config=config).success
    runs = ArtifactStore(directory=str(tmp_path / "store")).last("study_runs").read("runs")
    assert trained.name in {path.name for path in (tmp_path / "store" / "method_runs").iterdir()}
    table = ArtifactStore(directory=str(tmp_path / "store")).last("study_runs").read("rates")
    assert set(table["learning_rate"]) >= {0.001, 0.002}
    chosen = table.filter("chosen")["learning_rate"].to_list()
    assert chosen == runs.filter(method="lora_r16")["learning_rate"].to_list()
    untouched = ArtifactStore(directory=str(tmp_path / "store")).last("paper_table_2")
    assert "not among the experiments" in untouched.path("table.md").read_text()


@pytest.mark.parametrize(
    ("domains", "text"),
    [
        (
            {"general": ["reversals", "poems"]},
            "ops.study_runs.config.domains.general: expected one of sums, reversals, gardens, got 'poems'",
        ),
        (
            {"gardening": ["gardens"]},
            "ops.study_runs.config.domains: expected one of general, medical, law, code, math, mixed, got 'gardening'",
        ),
    ],
)
def test_domains_are_checked_before_training(tmp_path: Path, domains: dict[str, list[str]], text: str) -> None:
    job = build_defs().resolve_job_def("study")
    result = job.execute_in_process(run_config=study(tmp_path, domains=domains), raise_on_error=False)
    event = next(event for event in result.all_events if event.is_step_failure)
    assert text in event.step_failure_data.user_failure_data.description


@pytest.mark.slow
def test_shipped_configuration_on_real_text(
    shared_corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRALORA_CORPORA", str(shared_corpora))
    monkeypatch.delenv("HYDRALORA_CACHE")
    config = yaml.safe_load(CI.read_text())
    config["resources"]["store"]["config"]["directory"] = str(tmp_path / "store")
    assert build_defs().resolve_job_def("study").execute_in_process(run_config=config).success
    table = ArtifactStore(directory=str(tmp_path / "store")).last("paper_table_5").read("table")
    assert set(table["domain"]) == {"general", "law"}
    assert set(table["method"]) == {"base", "without_moe", "without_gate", "without_hydra", "hydralora"}
