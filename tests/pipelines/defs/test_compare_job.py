"""The job `compare` on a model that trains in a second: one table, runs that are kept, errors before any training."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from pipelines.definitions import build_defs
from pipelines.store.artifacts import Artifact
from pipelines.store.io_manager import ArtifactStore
from tests.pipelines.small_corpus import corpus_ops, resources

METHODS = ["hydralora", "hydralora_sequence", "lora_matched", "lorahub", "full"]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRALORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def compare(
    folder: Path, methods: list[str], *, raises: bool = True, parallel: int = 1, **ops: dict[str, Any]
) -> dg.ExecuteInProcessResult:
    comparison = {"methods": methods, "cost_steps": 0, "resamples": 50, **ops.pop("method_comparison", {})}
    documents = {"validation_documents_per_source": 4, "held_out_documents_per_source": 6}
    own = {"method_comparison": comparison, "comparison_documents": documents, **ops}
    config = {
        "resources": resources(folder, launcher={"parallel": parallel}),
        "ops": corpus_ops(folder) | {name: {"config": value} for name, value in own.items()},
    }
    return build_defs().resolve_job_def("compare").execute_in_process(run_config=config, raise_on_error=raises)


def latest(folder: Path, asset: str) -> Artifact:
    return ArtifactStore(directory=str(folder / "store")).last(asset)


def runs_of(folder: Path) -> set[str]:
    return {path.name for path in (folder / "store" / "method_runs").iterdir() if path.is_dir()}


def reason(result: dg.ExecuteInProcessResult) -> str:
    event = next(event for event in result.all_events if event.is_step_failure)
    data = event.step_failure_data.user_failure_data
    return f"{event.step_key}: {data.description if data else event.step_failure_data.error}"


@pytest.mark.slow
def test_methods_meet_in_one_table_and_one_more_is_trained_alone(tmp_path: Path) -> None:
    rates = {"rates": {"hydralora": [0.003, 0.01], "lora_matched": [0.01]}, "max_tokens": 300}
    assert compare(tmp_path, METHODS[:3], learning_rates=rates).success
    artifact = latest(tmp_path, "method_comparison")
    table = artifact.read("comparison")
    assert set(table["method"]) == {"base", *METHODS[:3]}
    assert table["loss"].is_sorted()
    rows = {row["method"]: row for row in table.iter_rows(named=True)}
    assert rows["lora_matched"]["difference"] is None
    assert (
        rows["hydralora"]["difference_low"] <= rows["hydralora"]["difference"] <= rows["hydralora"]["difference_high"]
    )
    # q and v of two layers: A 8 x 32, three experts 32 x 8 and 16 x 8, a router 3 x 8 each.
    assert [rows["hydralora"][part] for part in ("a", "b", "router")] == [4 * 256, 2 * 3 * (256 + 128), 4 * 24]
    assert abs(rows["lora_matched"]["n_parameters"] - rows["hydralora"]["n_parameters"]) < 200
    sweep = latest(tmp_path, "learning_rates").json("learning_rates")
    assert (sweep["measured_on"], sweep["max_tokens"], sweep["num_experts"]) == ("validation", 300, 3)
    tuned = sweep["methods"]
    assert rows["hydralora"]["learning_rate"] == tuned["hydralora"]["learning_rate"]
    assert tuned["hydralora"]["losses"][0] != tuned["hydralora"]["losses"][1]
    assert not tuned["lora_matched"]["bracketed"]
    assert "| hydralora_sequence |" in artifact.path("comparison.md").read_text()
    assert artifact.path("comparison.png").stat().st_size > 1000

    before = runs_of(tmp_path)
    assert compare(tmp_path, METHODS, learning_rates=rates).success
    assert len(runs_of(tmp_path) - before) == 2
    again = latest(tmp_path, "method_comparison").read("comparison").filter(pl.col("method") == "hydralora")
    assert again["loss"].item() == rows["hydralora"]["loss"]


@pytest.mark.slow
def test_processes_side_by_side_give_the_same_table(tmp_path: Path) -> None:
    """One by one, then in two processes, in another store."""
    tables = []
    for folder, parallel in ((tmp_path / "one", 1), (tmp_path / "two", 2)):
        folder.mkdir()
        assert compare(folder, ["hydralora", "lora_matched"], parallel=parallel).success
        tables.append(latest(folder, "method_comparison").read("comparison"))
    assert tables[0].equals(tables[1])


def test_costs_are_measured_alone(tmp_path: Path) -> None:
    costs = {"cost_steps": 8, "measure_energy": False}
    assert compare(tmp_path, ["hydralora_sequence", "lora_matched"], method_comparison=costs).success
    table = latest(tmp_path, "method_comparison").read("comparison").filter(pl.col("method") != "base")
    assert (table["tokens_per_second"] > 0).all()
    assert (table["generated_per_second"] > 0).all()
    assert (table["peak_memory_gib"] > 0.01).all()
    assert table["gpu_kwh"].null_count() == 2


@pytest.mark.slow
def test_every_row_of_the_table_of_methods_is_compared(tmp_path: Path) -> None:
    from hydralora.methods import METHODS

    assert compare(tmp_path, list(METHODS), method_comparison={"cost_steps": 8, "measure_energy": False}).success
    table = latest(tmp_path, "method_comparison").read("comparison")
    assert set(table["method"]) == {"base", *METHODS}
    loss = dict(table.select("method", "loss").iter_rows())
    assert loss["lora_split_16x2"] == loss["lora_split_8x4"] == loss["lora_split_4x8"] == loss["lora_r32"]
    assert loss["without_moe"] == pytest.approx(loss["lora_r8"], abs=1e-5)
    assert table.filter(pl.col("method") != "base").drop_nulls("generated_per_second").height == len(METHODS)


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        (
            ["hydralora", "lora_matched", "ia4"],
            "ops.method_comparison.config.methods: expected one of hydralora, lora_r8",
        ),
        (["hydralora"], "expected one of the methods hydralora, got 'lora_matched'"),
    ],
)
def test_what_cannot_be_trained_ends_the_job_before_any_training(tmp_path: Path, methods: list[str], text: str) -> None:
    result = compare(tmp_path, methods, raises=False)
    assert not result.success
    assert text in reason(result)
    assert not (tmp_path / "store" / "method_runs").exists()


def test_layers_that_do_not_exist_are_named(tmp_path: Path) -> None:
    config = {
        "resources": resources(tmp_path, recipe={"target_modules": ["query"]}),
        "ops": corpus_ops(tmp_path) | {"method_comparison": {"config": {"methods": ["lora_matched", "hydralora"]}}},
    }
    result = build_defs().resolve_job_def("compare").execute_in_process(run_config=config, raise_on_error=False)
    sentence = reason(result)
    assert sentence.startswith(
        "raw_documents: resources.recipe.config.target_modules: expected one of embed_tokens, q_proj"
    )
    assert "got 'query'" in sentence


@pytest.mark.slow
def test_benchmarks_of_what_was_compared(tmp_path: Path, shared_corpora: Path) -> None:
    pytest.importorskip("lm_eval")
    benchmarks = {"tasks": ["mmlu_law"], "methods": ["base", "hydralora_sequence"], "limit": 2}
    options = {**benchmarks, "corpora": str(shared_corpora)}
    assert compare(tmp_path, ["hydralora_sequence", "lora_matched"], method_benchmarks=options).success
    scores = latest(tmp_path, "method_benchmarks").read("scores")
    means = scores.filter(pl.col("task") == "mmlu_law")
    assert means["method"].to_list() == ["base", "hydralora_sequence"]
    assert set(means["chance"]) == {0.25}
    assert set(means["n"]) == {4}
