"""New documents against a saved corpus model: the labels written, the verdict, and the command line."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.clusters import assignment
from analysis.clusters.assignment import LABELS_SCHEMA, assign_records, cluster_shares
from analysis.clusters.corpus_model import CorpusModel
from analysis.clusters.drift import REFERENCE, summarise_corpus
from analysis.clusters.kmeans import sweep_kmeans
from analysis.clusters.known_groups import GROUPS, describe_groups
from analysis.features.lsa import TfidfLsa
from analysis.sources import FilesSource, read_source

SUBJECTS = ("gsm8k", "legalbench", "mbxp")


def records(folder: Path, *names: str, split: str) -> pl.LazyFrame:
    return pl.concat([read_source(name, FilesSource((str(folder / f"{name}_{split}.parquet"),))) for name in names])


@pytest.fixture(scope="module")
def corpus_model(shared_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three subjects, 800 documents each, a quarter of them held out."""
    drawn = [records(shared_corpora, name, split="train").collect().sample(800, seed=0) for name in SUBJECTS]
    prompts = pl.concat(drawn)["prompt"]
    is_held_out = np.arange(len(prompts)) % 4 == 0
    features = TfidfLsa().fit(prompts.filter(~is_held_out))
    model = CorpusModel(features, sweep_kmeans(features.transform(prompts), [3]).centers[0])
    folder = tmp_path_factory.mktemp("model")
    model.save(folder)
    (block,) = model.stream([prompts])
    summarise_corpus(block, is_held_out, 3).save(folder / REFERENCE)
    sources = pl.Series(SUBJECTS).gather(np.repeat(range(3), 800))
    known = describe_groups(model, prompts, sources, block.labels, block.explained, is_held_out)
    assert known is not None
    known.save(folder / GROUPS)
    return folder


def test_labels_are_those_of_the_model_in_the_order_read(
    corpus_model: Path, shared_corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignment, "BATCH_ROWS", 100)  # several batches
    new = records(shared_corpora, *SUBJECTS, split="test")
    result = assign_records(new, corpus_model, tmp_path / "labels.parquet")
    labels, prompts = pl.read_parquet(tmp_path / "labels.parquet"), new.collect()
    assert labels.schema == LABELS_SCHEMA
    assert labels["source"].to_list() == prompts["source"].to_list()
    expected, _ = CorpusModel.load(corpus_model).assign(prompts["prompt"])
    assert (labels["cluster"].to_numpy() == expected).mean() > 0.999  # blank space at line ends is all that differs
    assert [path.name for path in tmp_path.iterdir()] == ["labels.parquet"]
    mix = cluster_shares(result)
    assert mix["n_documents"].sum() == len(labels)
    assert mix.select(pl.col("share", "share_of_corpus").sum()).row(0) == pytest.approx((1, 1))


def test_more_of_the_same_stands_and_a_new_subject_does_not(
    corpus_model: Path, shared_corpora: Path, tmp_path: Path
) -> None:
    same_mix = pl.concat(
        [records(shared_corpora, name, split="test").collect().sample(300, seed=0).lazy() for name in SUBJECTS]
    )
    same = assign_records(same_mix, corpus_model, tmp_path / "labels.parquet")
    assert same.drift.reason.startswith("N stands")
    new = assign_records(records(shared_corpora, "medquad", split="test"), corpus_model, tmp_path / "labels.parquet")
    assert new.drift.reconsider
    assert new.drift.reason.startswith("Reconsider N: ")
    assert new.drift.outside is not None
    assert new.drift.outside > 0.2
    assert "what" in new.drift.outside_terms or "symptoms" in new.drift.outside_terms


@pytest.mark.parametrize("name", SUBJECTS)
def test_one_source_alone_is_nothing_new(corpus_model: Path, shared_corpora: Path, tmp_path: Path, name: str) -> None:
    drift = assign_records(records(shared_corpora, name, split="test"), corpus_model).drift
    assert not drift.reconsider, drift.reason
    assert f"({name} 9" in drift.reason or f"({name} 100%" in drift.reason
    assert next(iter(drift.like)) == name
    assert not list(tmp_path.iterdir())  # no file is asked for


def test_another_language_is_new(corpus_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    path.write_text("".join(f'{{"q": "河水流向大海，第{i}条鱼在水里游。", "a": "好"}}\n' for i in range(150)))
    other = read_source("other", FilesSource((str(path),), {"prompt": "q", "completion": "a"}))
    drift = assign_records(other, corpus_model).drift
    assert drift.reconsider
    assert "of the words of the new documents are unknown to the corpus" in drift.reason


def test_a_model_without_groups_is_refused_and_nothing_is_written(
    corpus_model: Path, shared_corpora: Path, tmp_path: Path
) -> None:
    shutil.copytree(corpus_model, tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / GROUPS)
    with pytest.raises(ValueError, match=r"expected the groups of the corpus in .*run the job `corpus` again"):
        assign_records(records(shared_corpora, "gsm8k", split="test"), tmp_path / "old", tmp_path / "labels.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_odd_documents_are_assigned_and_counted(corpus_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_bytes(
        b'{"q": "the of", "a": "x"}\n{"q": "", "a": "x"}\n{"q": null, "a": "x"}\n'
        b'{"q": "\\u0000how many apples", "a": "x"}\n{"q": "zz\xff zzzz", "a": "x"}\n'
    )
    odd = read_source("odd", FilesSource((str(path),), {"prompt": "q", "completion": "a"}))
    result = assign_records(odd, corpus_model, tmp_path / "labels.parquet")
    statistics = result.summary.statistics
    assert (statistics.n_documents, statistics.n_without_words, statistics.n_without_known_terms) == (5, 2, 1)
    assert pl.read_parquet(tmp_path / "labels.parquet")["cluster"].is_between(0, 2).all()
    assert "Too few documents" in result.drift.reason


def test_nothing_to_assign_leaves_no_file(corpus_model: Path, shared_corpora: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected records to assign, got none"):
        assign_records(
            records(shared_corpora, "gsm8k", split="test").head(0), corpus_model, tmp_path / "labels.parquet"
        )
    assert not list(tmp_path.iterdir())
