"""Two stored runs side by side: configuration, clusters and losses of the same documents."""

from pathlib import Path

import polars as pl
import pytest

from pipelines.definitions import build_defs
from pipelines.report.two_runs import (
    clustered,
    compare_runs,
    differing_stages,
    made_from,
    matched_clusters,
    report_at,
    shared_losses,
)
from pipelines.store.artifacts import Artifact, ArtifactError, build_artifact
from tests.analysis.answer.small_corpus import GARDEN, LEDGER, write_records


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of two runs of one store: the second has a further source and another largest K."""
    folder = tmp_path_factory.mktemp("two")
    words = {"garden": GARDEN, "ledger": LEDGER, "harbour": ["anchor", "sailor", "rudder", "mast", "tide", "deck"]}
    paths = {name: write_records(folder / f"{name}.jsonl", own, seed=i) for i, (name, own) in enumerate(words.items())}
    job = build_defs().resolve_job_def("corpus")

    def run(names: list[str], largest: int) -> Path:
        sources = [{"name": name, "read": {"files": {"paths": [str(paths[name])]}}} for name in names]
        ops = {"raw_documents": {"sources": sources}, "cluster_sweep": {"max_clusters": largest}}
        config = {
            "resources": {"store": {"config": {"directory": str(folder / "store")}}},
            "ops": {name: {"config": values} for name, values in ops.items()},
        }
        return folder / "store" / "runs" / job.execute_in_process(run_config=config).run_id

    return [run(["garden", "ledger"], 8), run(["garden", "ledger", "harbour"], 9)]


def test_the_page_of_two_runs(runs: list[Path], tmp_path: Path) -> None:
    first, second = map(report_at, runs)
    words = compare_runs(first, second, tmp_path / "page.html").read_text("utf-8")
    assert "sources.harbour" in words
    assert "Clusters matched" in words
    assert "sailor" in words


def test_what_differs_is_configuration_or_only_inputs(runs: list[Path]) -> None:
    section = differing_stages(*(made_from(report_at(run)) for run in runs))
    rows = section.tables[0].rows
    assert ("cluster_sweep", "max_clusters", "8", "9") in rows
    assert ("raw_documents", "sources.harbour", "–") in [row[:3] for row in rows]
    assert {name for name, *_ in rows} == {"cluster_sweep", "raw_documents"}
    assert "only because an earlier stage does: cluster_labels, " in section.lead
    one = made_from(report_at(runs[0]))
    same = differing_stages(one, one)
    assert not same.tables
    assert f"{len(one)} of {len(one)} stages are the same" in same.lead


def test_clusters_are_matched_by_documents(runs: list[Path]) -> None:
    first, second = (made_from(report_at(run)) for run in runs)
    rows = matched_clusters(first, second).tables[0].rows
    assert [row[:2].count(None) for row in rows].count(0) == 2
    assert "same clusters" in matched_clusters(first, first).missing
    assert len(clustered(second, 0.25).documents) == 90


def losses_of(store: Path, shift: float, first: int, tokens: int = 2) -> Artifact:
    """An evaluation of twenty documents from the number `first` on."""
    numbers = list(range(first, first + 20))
    frame = pl.DataFrame(
        {
            "method": ["lora_r8"] * 20,
            "document_id": [f"{number:016x}" for number in numbers],
            "source": ["a"] * 20,
            "loss": [float(number % 5) + shift for number in numbers],
            "n_tokens": [tokens] * 20,
        }
    )
    return build_artifact(
        store,
        "evaluation",
        code_version="1",
        config={"shift": shift, "first": first, "tokens": tokens},
        inputs={},
        build=lambda draft: draft.write_table("document_losses", frame),
    )


def test_losses_are_paired_by_the_documents_of_both(tmp_path: Path) -> None:
    first, second = losses_of(tmp_path, 0.0, 0), losses_of(tmp_path, 0.5, 5)
    section = shared_losses({"evaluation": first}, {"evaluation": second})
    assert section is not None
    assert section.tables[0].rows == (("lora_r8", 15, 1.0, 1.25, 0.25, 0.25, 0.25, "yes"),)
    otherwise_tokenised = losses_of(tmp_path, 0.0, 0, tokens=3)
    section = shared_losses({"evaluation": first}, {"evaluation": otherwise_tokenised})
    assert section is not None
    assert "No method was measured in both runs" in section.missing


def test_a_run_without_a_report_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs" / "1a2b").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="expected a run that made a report, found nothing"):
        report_at(tmp_path / "runs" / "1a2b")
