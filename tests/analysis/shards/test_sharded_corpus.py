"""A corpus in shards: the documents of the corpus stage on one machine, and the same bytes on every engine."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pytest

from analysis.clusters.assignment import assign_records
from analysis.corpus import deduplication
from analysis.corpus.cleaning import clean
from analysis.engine.files import read_bytes, read_table
from analysis.engine.processes import ProcessEngine
from analysis.engine.tasks import SerialEngine, ShardError
from analysis.shards import cleaning
from analysis.shards.compiling import compile_kernels
from analysis.shards.corpus import ShardedConfig, sharded_corpus
from analysis.sources import FilesSource, SourceError, read_source, read_sources
from tests.analysis.shards.small_shards import CONFIG, content_of, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("corpus")
    sources, evaluation = write_corpus(folder)
    out = folder / "out"
    return sources, evaluation, out, sharded_corpus(sources, str(out), SerialEngine(), CONFIG, evaluation=evaluation)


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessEngine]:
    """Two processes, whose start takes longer than their tasks."""
    engine = ProcessEngine(2)
    yield engine
    engine.close()


def test_documents_and_card_are_those_of_one_machine(corpus: Any) -> None:
    sources, evaluation, _, result = corpus
    read = {name: read_source(name, source) for name, source in evaluation.items()}
    expected = clean(read_sources(sources).records, CONFIG.clean, evaluation=read)
    # JSON lines are cut between lines: pieces of a file have the file's own name as their origin.
    assert pl.read_parquet(result["documents"]).equals(expected.documents.collect())
    assert pl.read_parquet(result["dropped"]).equals(expected.dropped)
    assert result["data_card"] == json.loads(json.dumps(expected.data_card))
    reasons = set(expected.dropped["reason"])
    assert {"empty_prompt", "exact_duplicate", "near_duplicate", "contaminated"} <= reasons
    assert len(result["documents"]) > 9  # files were cut


def test_a_large_corpus_counts_templates_in_the_same_records_and_compares_keys_in_parts(
    corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, evaluation, *_ = corpus
    monkeypatch.setattr(deduplication, "COUNTED_RECORDS", 200)  # of 630
    monkeypatch.setattr(deduplication, "TEMPLATE_DOCUMENTS", 1)
    monkeypatch.setattr(cleaning, "KEYS_OF_TASK", 200)
    monkeypatch.setattr(cleaning, "PAIRS_OF_TASK", 50)
    read = {name: read_source(name, source) for name, source in evaluation.items()}
    expected = clean(read_sources(sources).records, CONFIG.clean, evaluation=read)
    fewer = sharded_corpus(sources, str(tmp_path), SerialEngine(), CONFIG, evaluation=evaluation)
    assert pl.read_parquet(fewer["dropped"]).equals(expected.dropped)


def test_processes_and_another_size_of_shards(corpus: Any, processes: ProcessEngine, tmp_path: Path) -> None:
    sources, evaluation, out, result = corpus
    other = sharded_corpus(sources, str(tmp_path), processes, CONFIG, evaluation=evaluation)
    assert content_of(tmp_path) == content_of(out)
    assert {name for name, (_, ran) in other["stages"].items() if not ran} <= {"evaluation_ngrams"}
    coarse = sharded_corpus(
        sources, str(tmp_path / "coarse"), SerialEngine(), replace(CONFIG, shard_bytes=1 << 20), evaluation=evaluation
    )
    assert len(coarse["documents"]) == len(sources)
    for name in ("documents", "dropped", "labels"):
        assert pl.read_parquet(coarse[name]).equals(pl.read_parquet(result[name]))
    assert coarse["choice"] == result["choice"]


def test_n_and_labels(corpus: Any, tmp_path: Path) -> None:
    *_, result = corpus
    labels, documents = pl.read_parquet(result["labels"]), pl.read_parquet(result["documents"])
    assert result["choice"]["num_clusters"] == 3
    assert labels["document_id"].equals(documents["document_id"])
    assert labels.group_by("cluster").agg(pl.col("source").n_unique())["source"].to_list() == [1, 1, 1]
    assert result["sizes"] == labels["cluster"].value_counts(sort=False).sort("cluster")["count"].to_list()
    points = read_table(result["map"])
    assert points.columns == ["x", "y", "cluster", "name", "source", "document_id", "text"]
    assert points["name"].null_count() == 0
    for name, url in result["model"].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(read_bytes(url))
    assigned = assign_records(read_source("garden", corpus[0]["garden"]), tmp_path)
    statistics = assigned.summary.statistics
    # A document without words may go anywhere.
    assert max(assigned.summary.cluster_counts) >= statistics.n_documents - statistics.n_without_words


def test_second_run_has_nothing_to_do_and_a_lost_file_is_made_again(corpus: Any) -> None:
    sources, evaluation, out, result = corpus
    before = content_of(out)

    def ran() -> dict[str, int]:
        again = sharded_corpus(sources, str(out), SerialEngine(), CONFIG, evaluation=evaluation)
        return {name: n for name, (_, n) in again["stages"].items() if n}

    assert ran() == {}
    lost = [Path(result["labels"][1]), Path(result["documents"][0])]
    lost[0].unlink()
    lost[1].write_bytes(lost[1].read_bytes()[:-1])
    assert ran() == {"documents": 1, "labels": 1}
    assert content_of(out) == before


def test_other_code_uses_no_old_file(corpus: Any) -> None:
    sources, evaluation, out, _ = corpus
    again = sharded_corpus(sources, str(out), SerialEngine(), CONFIG, evaluation=evaluation, code_version="2")
    assert all(total == ran for total, ran in again["stages"].values())


def test_broken_shard_names_its_file(processes: ProcessEngine, tmp_path: Path) -> None:
    sources, _ = write_corpus(tmp_path / "in")
    broken = tmp_path / "in" / "harbour" / "0.jsonl"
    broken.write_text(broken.read_text() + '{"prompt": "cut of')
    for engine in (SerialEngine(), processes):
        with pytest.raises(ShardError, match=r"harbour/0\.jsonl"):
            sharded_corpus(sources, str(tmp_path / type(engine).__name__), engine, CONFIG)


def test_urls_in_and_out(corpus: Any, tmp_path: Path) -> None:
    sources, evaluation, out, result = corpus
    memory = fsspec.filesystem("memory")
    for name in sources:
        memory.put(str(out.parent / name), f"/corpora/{name}", recursive=True)
    far = {name: FilesSource((f"memory://corpora/{name}/*",)) for name in sources}
    try:
        other = sharded_corpus(far, "memory://result", SerialEngine(), CONFIG, evaluation=evaluation)
        for name in ("documents", "dropped", "labels"):
            found = pl.concat([read_table(url) for url in other[name]])
            assert found.equals(pl.read_parquet(result[name]))
    finally:
        memory.rm("/corpora", recursive=True)
        memory.rm("/result", recursive=True)


def test_kernels_are_compiled_on_a_few_documents() -> None:
    compile_kernels()


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    nowhere = {"a": FilesSource((str(tmp_path / "none*.jsonl"),))}
    with pytest.raises(SourceError, match=r"source 'a': no file matches"):
        sharded_corpus(nowhere, str(tmp_path), SerialEngine(), CONFIG)
    limited = replace(CONFIG, clean=replace(CONFIG.clean, max_documents_per_source=5))
    sources, _ = write_corpus(tmp_path / "in")
    with pytest.raises(ValueError, match="max_documents_per_source"):
        sharded_corpus(sources, str(tmp_path), SerialEngine(), limited)
    with pytest.raises(ValueError, match="n_init: expected at least 1"):
        ShardedConfig(n_init=0)
