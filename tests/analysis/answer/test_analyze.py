import json
import re

import pytest

import analysis
from analysis.answer.analyze import Stage
from analysis.answer.named_files import named_sources
from analysis.clusters.assignment import assign_records
from analysis.sources import SourceError, read_sources
from tests.analysis.answer.small_corpus import GARDEN, LEDGER, write_records


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return [write_records(folder / "garden.jsonl", GARDEN), write_records(folder / "ledger.jsonl", LEDGER, seed=1)]


@pytest.fixture(scope="module")
def found(files):
    return analysis.analyze(files)


def test_two_kinds_of_work_get_an_expert_each(found):
    assert found.num_experts == 2
    assert found.grouping.kind == "source"
    assert found.groups["group"].to_list() == ["garden", "ledger"]
    assert found.groups["n_documents"].sum() == found.documents.filter(split="train").height
    for words, told in zip((GARDEN, LEDGER), found.groups["top_terms"], strict=True):
        assert set(told) & set(words)


def test_how_sure_counts_every_sample(found):
    assert sum(found.samples.values()) == 6
    assert found.share_of_samples == found.samples.get(found.choice.value, 0) / 6
    assert re.search(r"Probability of one part: \d%\.", found.choice.reason)


def test_one_kind_of_work_is_a_plain_lora(files):
    one = analysis.analyze(files[0], n_samples=0)
    assert one.num_experts == 1
    assert one.share_of_samples is None
    assert "plain LoRA is enough" in one.meaning


def test_the_folder_has_a_report_of_the_corpus_alone_json_and_a_model(found, files, tmp_path):
    written = found.write(tmp_path)
    page = written.html.read_text("utf-8")
    assert "How many experts" in page
    assert "This run has no" not in page
    answer = json.loads((tmp_path / "analysis.json").read_text())
    assert answer["num_experts"] == 2
    assert answer["groups"][0]["sources"] == {"garden": found.groups["n_documents"][0]}
    records = read_sources(named_sources(files)).records
    assert sum(assign_records(records, tmp_path / "corpus_model").summary.cluster_counts) == 240


def test_a_notebook_shows_escaped_words(found):
    shown = found._repr_html_()
    assert "N = 2" in shown
    assert "<script" not in shown


def test_progress_names_each_stage_once(files):
    stages: list[Stage] = []
    analysis.analyze(files, n_samples=1, progress=stages.append)
    assert [stage.name for stage in stages] == ["read", "clean", "vectorise", "cluster", "resample", "group"]
    assert stages[-1].seconds_left == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "odd.jsonl").write_text('{"ask": "a", "reply": "b"}\n')
    with pytest.raises(SourceError, match="no known shape"):
        analysis.analyze(tmp_path / "odd.jsonl")
    assert analysis.analyze(
        write_records(tmp_path / "named.jsonl", GARDEN), columns={"prompt": "prompt", "completion": "completion"}
    ).num_experts
