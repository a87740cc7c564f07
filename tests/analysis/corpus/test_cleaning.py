"""Cleaning as a whole: what is dropped and why, splits, the data card, and bad input."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analysis.corpus import cleaning as corpus
from analysis.corpus.cleaning import CleanConfig, clean
from analysis.corpus.data_card import halved_sources
from analysis.corpus.documents import Documents, Dropped, document_ids
from analysis.sources import RECORD_SCHEMA, FilesSource, read_sources

QUIET = CleanConfig(near_duplicate_threshold=None, decontaminate=False, detect_language=False)


def records(*rows: dict[str, Any]) -> pl.LazyFrame:
    empty = dict.fromkeys(RECORD_SCHEMA, None) | {"source": "a", "prompt": "p", "completion": "c"}
    return pl.from_dicts([empty | row for row in rows], schema=RECORD_SCHEMA).lazy()


def reasons(result: corpus.CleanedCorpus) -> dict[str, int]:
    return dict(result.dropped.group_by("reason").len().iter_rows())


def prompts(result: corpus.CleanedCorpus) -> list[str]:
    return result.documents.collect()["prompt"].to_list()


def test_every_record_is_kept_or_dropped_with_its_reason() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "kept", "completion": "yes"},
        {"prompt": " \n\t", "completion": "c"},
        {"prompt": None, "completion": "c"},
        {"prompt": "\x00\ufeff", "completion": "c"},
        {"prompt": "p", "completion": "  \n"},
        {"prompt": "p", "completion": "\u200d\u2060\u200f\u3164"},
        {"prompt": "Zo\ufffd", "completion": "c"},
        {"prompt": "x" * 51, "completion": "c"},
        {"prompt": "p", "completion": "x" * 61},
        {"prompt": "kept", "completion": "yes", "source": "b"},
        {"prompt": "kept\r\n", "completion": "yes  "},
    ]
    config = CleanConfig(max_prompt_characters=50, max_completion_characters=60, detect_language=False)
    result = clean(records(*rows), config)
    assert prompts(result) == ["kept"]
    assert reasons(result) == {
        "empty_prompt": 3,
        "empty_completion": 2,
        "invalid_utf8": 1,
        "prompt_too_long": 1,
        "completion_too_long": 1,
        "exact_duplicate": 2,
    }
    Documents.validate(result.documents.collect())
    Dropped.validate(result.dropped)
    [kept_id] = result.documents.collect()["document_id"]
    assert result.dropped.filter(pl.col("reason") == "exact_duplicate")["detail"].to_list() == [kept_id, kept_id]
    card = result.data_card
    assert (card["n_read"], card["n_kept"], card["n_dropped"]) == (11, 1, 10)
    assert card["duplicates"] == [
        {"kind": "exact_duplicate", "source": "a", "kept_source": "a", "n": 1},
        {"kind": "exact_duplicate", "source": "b", "kept_source": "a", "n": 1},
    ]


def test_text_is_normalised_and_code_keeps_its_indentation() -> None:
    row = {
        "prompt": "\r\n  cafe\u0301\x00 \r\ntwo\rthree\x0cfour\x85five\n\n",
        "completion": "\n    if x:\t \n        return 1\n",
    }
    [document] = clean(records(row), QUIET).documents.collect().to_dicts()
    assert document["prompt"] == "  café\ntwo\nthree\nfour\nfive"
    assert document["completion"] == "    if x:\n        return 1"


def test_document_id_is_the_stated_hash() -> None:
    import hashlib

    [document] = clean(records({"source": "s", "prompt": "p", "completion": "é"}), QUIET).documents.collect().to_dicts()
    assert document["document_id"] == hashlib.blake2b("s\0p\0é".encode(), digest_size=8).hexdigest()


def test_held_out_documents_are_the_ones_kept_of_duplicates() -> None:
    result = clean(
        records(
            {"prompt": "same", "split": "train"},
            {"prompt": "same", "split": "test", "source": "b"},
            {"prompt": "first", "split": "train", "source": "b"},
            {"prompt": "first", "split": "train"},
        ),
        QUIET,
    )
    kept = result.documents.select("source", "prompt", "split").collect().rows()
    assert kept == [("b", "same", "test"), ("b", "first", "train")]


def test_near_duplicates_across_sources_are_counted_by_pair() -> None:
    words = [f"word{i}" for i in range(40)]
    changed = [*words[:39], "other"]
    result = clean(
        records(
            {"source": "a", "prompt": " ".join(words)},
            {"source": "b", "prompt": " ".join(changed)},
            {"source": "b", "prompt": " ".join(reversed(words))},
        ),
        CleanConfig(test_fraction=0, detect_language=False),
    )
    assert result.documents.collect()["source"].to_list() == ["a", "b"]
    assert reasons(result) == {"near_duplicate": 1}
    assert result.data_card["duplicates"] == [{"kind": "near_duplicate", "source": "b", "kept_source": "a", "n": 1}]
    assert halved_sources(result.data_card) == ["Source 'b' has lost 1 of 2 records: 1 near_duplicate (of 'a')"]


def test_training_documents_with_evaluation_text_are_dropped() -> None:
    question = "a farmer has seven cows and sells three of them on the market how many are left"
    result = clean(
        records(
            {"prompt": f"Please answer: {question.upper()}?!", "split": "train"},
            {"prompt": "a farmer has seven cows", "split": "train"},
            {"prompt": question, "split": "test", "source": "b"},
        ),
        CleanConfig(detect_language=False, near_duplicate_threshold=None),
        evaluation={"exam": records({"prompt": question, "completion": "4"})},
    )
    assert prompts(result) == ["a farmer has seven cows", question]
    assert result.dropped.select("reason", "detail").rows() == [("contaminated", "exam")]
    assert result.data_card["contamination"] == [{"source": "a", "evaluation_set": "exam", "n": 1}]


def test_own_test_split_is_an_evaluation_set() -> None:
    question = "a farmer has seven cows and sells three of them on the market how many are left"
    rows = [{"prompt": f"{question} 1", "split": "train"}, {"prompt": f"2 {question}", "split": "test"}]
    config = CleanConfig(detect_language=False, near_duplicate_threshold=None)
    assert clean(records(*rows), config).dropped["detail"].to_list() == ["held_out"]
    assert len(clean(records(*rows), QUIET).dropped) == 0


def test_source_limit_counts_training_documents_and_does_not_depend_on_order() -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"p{i}", "split": "train"} for i in range(20)]
    rows += [{"prompt": f"t{i}", "split": "test"} for i in range(5)] + [{"prompt": "b", "source": "b"}]
    config = CleanConfig(
        near_duplicate_threshold=None,
        decontaminate=False,
        detect_language=False,
        max_documents_per_source=7,
        test_fraction=0,
    )
    result = clean(records(*rows), config)
    assert result.documents.collect().group_by("source", "split").len().sort("len").rows() == [
        ("b", "train", 1),
        ("a", "test", 5),
        ("a", "train", 7),
    ]
    assert sorted(prompts(result)) == sorted(prompts(clean(records(*reversed(rows)), config)))
    assert result.dropped["detail"].unique().to_list() == ["7"]


def test_split_is_the_sources_own_or_a_stable_share() -> None:
    rows = [{"prompt": f"p{i}"} for i in range(2_000)] + [{"prompt": "own", "split": "test"}]
    table = clean(records(*rows), QUIET).documents.collect()
    share = (table["split"] == "test").mean()
    assert share == pytest.approx(0.1, abs=0.02)
    assert table.row(-1, named=True)["split"] == "test"
    alone = clean(records(*rows[:10]), QUIET).documents.collect()
    assert alone["split"].to_list() == table["split"].head(10).to_list()


def test_a_corpus_larger_than_the_cache_gives_the_same(shared_corpora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shared_corpora / "flan10_train.parquet"
    source = read_sources({"flan10": FilesSource((str(path),))}).records.head(3_000)
    cached = clean(source)
    monkeypatch.setattr(corpus, "CACHE_BYTES", 1)
    monkeypatch.setattr(corpus, "BATCH_ROWS", 700)
    streamed = clean(source)
    assert streamed.documents.collect().equals(cached.documents.collect())
    assert streamed.dropped.equals(cached.dropped)
    assert streamed.data_card == cached.data_card
    streamed_by_engine = streamed.documents.collect(engine="streaming")
    assert streamed_by_engine.equals(cached.documents.collect())


def test_same_bytes_in_another_process(shared_corpora: Path) -> None:
    script = (
        "import hashlib, io, sys\n"
        "from analysis.corpus.cleaning import clean\n"
        "from analysis.sources import FilesSource, read_sources\n"
        "paths = [f'{sys.argv[1]}/{name}_*.parquet' for name in ('mbpp', 'pubmedqa')]\n"
        "result = clean(read_sources({'x': FilesSource(tuple(paths))}).records)\n"
        "for table in (result.documents.collect(), result.dropped):\n"
        "    file = io.BytesIO(); table.write_parquet(file); print(hashlib.sha256(file.getvalue()).hexdigest())\n"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", script, str(shared_corpora)], capture_output=True, check=True).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1


def test_real_corpora_add_up(shared_corpora: Path) -> None:
    names = ("gsm8k", "mbpp", "mbxp", "pubmedqa")
    sources = {name: FilesSource((str(shared_corpora / f"{name}_*.parquet"),)) for name in names}
    read = read_sources(sources).records
    result = clean(read)
    documents = Documents.validate(result.documents.collect())
    assert len(documents) + len(result.dropped) == len(read.collect())
    # a held-out document is never the one that decontamination removes
    held_out = read.filter(pl.col("split") == "test").collect()
    ids = document_ids(held_out["source"], held_out["prompt"], held_out["completion"])
    contaminated = result.dropped.filter(pl.col("reason") == "contaminated")["document_id"]
    assert len(contaminated) > 100
    assert not set(contaminated) & set(ids)
    card = result.data_card
    assert json.loads(json.dumps(card)) == card
    assert [row["source"] for row in card["sources"]] == list(names)
    assert sum(row["n_train"] + row["n_test"] for row in card["sources"]) == card["n_kept"] == len(documents)
    for table in ("tasks", "languages", "licences"):
        assert sum(row["n"] for row in card[table]) == card["n_kept"]
    english = sum(row["n"] for row in card["languages"] if row["language"] == "en")
    assert english / card["n_kept"] > 0.95


def test_bad_text_is_counted_and_never_a_crash() -> None:
    rows = [
        {"prompt": "\x00" * 10, "completion": "c"},
        {"prompt": "the of and", "completion": "the"},
        {"prompt": "日本語のテキスト और हिन्दी и русский", "completion": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 👩‍👩‍👧"},
        {"prompt": "long " * 10_000_000, "completion": "c"},  # 50 MB
        *[{"prompt": "again", "completion": "and again"}] * 50,
    ]
    result = clean(records(*rows))
    assert prompts(result) == ["the of and", "日本語のテキスト और हिन्दी и русский", "again"]
    assert reasons(result) == {"empty_prompt": 1, "prompt_too_long": 1, "exact_duplicate": 49}


@pytest.mark.parametrize(
    ("table", "error"),
    [
        (records({}).head(0), "the corpus is empty"),
        (
            records({"prompt": ""}, {"completion": ""}),
            "source 'a': of 2 records read, cleaning dropped 1 empty_completion, 1 empty_prompt. Correct",
        ),
        (records({}).with_columns(prompt=1), "expected records with the columns"),
        (records({}).drop("task"), "expected records with the columns"),
    ],
)
def test_a_corpus_without_documents_is_a_clear_error(table: pl.LazyFrame, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        clean(table)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"max_prompt_characters": 0}, "max_prompt_characters must be at least 1, got 0"),
        ({"max_documents_per_source": 0}, "max_documents_per_source must be at least 1, got 0"),
        ({"near_duplicate_threshold": 1.5}, r"near_duplicate_threshold must be in \(0, 1\], got 1.5"),
        ({"test_fraction": 1.0}, r"test_fraction must be in \[0, 1\), got 1.0"),
    ],
)
def test_configuration_is_checked(config: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        CleanConfig(**config)


def test_ids_differ_by_where_the_text_is_split() -> None:
    one, two = (document_ids(pl.Series(["s"]), pl.Series([p]), pl.Series([c])) for p, c in (("ab", "c"), ("a", "bc")))
    assert one[0] != two[0]
