"""The hub: the real client against a hub-shaped server on this machine, and local folders of the same layout."""

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from analysis.sources import CatalogSource, HubSource, SourceError, load_catalog, read_source, read_sources

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40
SERVER = Path(__file__).with_name("hub_server.py")
ROWS = [
    {"instruction": "Add.", "context": "1 2", "response": "3", "category": "math"},
    {"instruction": "Greet.", "context": "", "response": "Hello", "category": "chat:1.0.0"},
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "data").mkdir()
    pl.DataFrame(ROWS).write_parquet(folder / "data" / "train-00000-of-00001.parquet")
    pl.DataFrame(ROWS[:1]).write_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def endpoint(repository: Path) -> Iterator[str]:
    command = [sys.executable, str(SERVER), str(repository), "org/toy", COMMIT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.terminate()


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this module's own: nothing is written into the user's, nothing is found in it."""
    import datasets

    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        yield folder


def ask_hub(endpoint: str, cache: Path, *configs: HubSource) -> list[object]:
    """Read through the hub client in a fresh interpreter: it takes its endpoint from the environment, at import."""
    script = (
        "import json, sys\n"
        "from analysis.sources import HubSource, SourceError, read_source\n"
        "for config in json.loads(sys.argv[1]):\n"
        "    config['tasks'] = tuple(config['tasks'])\n"
        "    try:\n"
        "        answer = read_source('toy', HubSource(**config)).collect().to_dicts()\n"
        "    except SourceError as error:\n"
        "        answer = str(error)\n"
        "    print('ANSWER' + json.dumps(answer))\n"
    )
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    asked = json.dumps([vars(config) for config in configs])
    result = subprocess.run(
        [sys.executable, "-c", script, asked], capture_output=True, text=True, check=True, env=environment
    )
    return [json.loads(line[6:]) for line in result.stdout.splitlines() if line.startswith("ANSWER")]


def test_a_pinned_data_set_comes_from_the_hub(endpoint: str, cache: Path) -> None:
    records, chosen, bad_split, bad_subset, bad_column, bad_revision = ask_hub(
        endpoint,
        cache,
        HubSource("org/toy", COMMIT),
        HubSource("org/toy", COMMIT, tasks=("chat",)),
        HubSource("org/toy", COMMIT, split="nope"),
        HubSource("org/toy", COMMIT, subset="nope"),
        HubSource("org/toy", COMMIT, columns={"prompt": "x", "completion": "response"}),
        HubSource("org/toy", OTHER_COMMIT),
    )
    assert records == [
        {
            "source": "toy",
            "task": row["category"],
            "split": "train",
            "prompt": prompt,
            "completion": row["response"],
            "licence": None,
            "origin": f"org/toy@{COMMIT}",
        }
        for row, prompt in zip(ROWS, ("Add.\n\n1 2", "Greet."), strict=True)
    ]
    assert isinstance(chosen, list)
    assert [record["prompt"] for record in chosen] == ["Greet."]
    assert "source 'toy'" in str(bad_split)
    assert "split 'nope'" in str(bad_split)
    assert "subset nope" in str(bad_subset)
    assert "no column 'x'; found ['instruction', 'context', 'response', 'category']" in str(bad_column)
    # the cache holds another commit by now, which the client would hand out
    assert f"the hub did not give revision {OTHER_COMMIT}" in str(bad_revision)


def test_a_local_folder_needs_no_revision(repository: Path) -> None:
    records = read_source("toy", HubSource(str(repository), split="test", licence="MIT"))
    assert records.select("prompt", "split", "licence").collect().rows() == [("Add.\n\n1 2", "test", "MIT")]
    assert records.filter(pl.col("task") == "none").collect().is_empty()


@pytest.mark.parametrize("name", ["train.zip", "train.parquet"])
def test_a_damaged_file_is_one_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(SourceError, match=rf"source 'toy': {tmp_path}"):
        read_source("toy", HubSource(str(tmp_path)))


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:7]])
def test_a_moving_revision_is_refused(revision: str | None) -> None:
    with pytest.raises(SourceError, match=r"org/toy: expected the commit as revision \(40 hex digits\)"):
        read_source("toy", HubSource("org/toy", revision))


def test_the_catalog_names_the_corpora_of_the_paper() -> None:
    catalog = load_catalog()
    paper = {"databricks-dolly-15k", "genmedgpt-5k", "icliniq-10k", "lawyer-instruct", "us-terms", "gsm8k"}
    assert paper | {"codealpaca-20k"} <= set(catalog)
    assert sum(name.startswith("flan-") for name in catalog) == 10
    assert {name for name, entry in catalog.items() if entry.purpose == "evaluation"} == {"mmlu", "bbh", "humaneval"}
    non_permissive = {"genmedgpt-5k", "icliniq-10k", "us-terms", "codealpaca-20k"}
    assert not any(catalog[name].permissive for name in non_permissive)
    for entry in catalog.values():  # every entry is a valid source once it is pinned
        HubSource(entry.dataset, entry.revision or COMMIT, entry.split, entry.subset, entry.columns, tasks=entry.tasks)


def test_a_catalog_entry_is_read_like_its_hub_source(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text(
        f"toy: {{dataset: {repository}, licence: MIT, purpose: train,"
        " columns: {prompt: context, completion: response}}\n"
        f"exam: {{dataset: {repository}, licence: MIT, purpose: evaluation}}\n"
        "loose: {dataset: org/toy, licence: MIT, purpose: train}\n"
    )
    records = read_source("x", CatalogSource("toy", str(file))).collect()
    assert records.select("source", "prompt", "licence").rows() == [("x", "1 2", "MIT"), ("x", "", "MIT")]
    with pytest.raises(SourceError, match="source 'x': exam is for evaluation only"):
        read_source("x", CatalogSource("exam", str(file)))
    assert len(read_source("x", CatalogSource("exam", str(file), purpose="evaluation")).collect()) == 2
    with pytest.raises(SourceError, match=r"loose is not pinned\. Put the commit"):
        read_source("x", CatalogSource("loose", str(file)))
    with pytest.raises(SourceError, match="no entry 'none' in the catalog; expected one of toy, exam, loose"):
        read_source("x", CatalogSource("none", str(file)))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("- a\n", "expected entries by name, got list"),
        ("a: [\n", "cannot read the catalog"),
        ("a: 1\n", "entry 'a': expected fields, got 1"),
        ("a: {dataset: x, licence: MIT, purpose: fun}\n", "purpose must be one of"),
        ("a: {dataset: x, licences: MIT}\n", r"unknown fields \['licences'\], missing fields \['licence', 'purpose'\]"),
        ("a: {dataset: null, licence: MIT, purpose: train}\n", r"missing fields \['dataset'\]"),
    ],
)
def test_a_broken_catalog_is_named(tmp_path: Path, text: str, error: str) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text(text)
    with pytest.raises(SourceError, match=error):
        load_catalog(file)


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        (["a.jsonl", "b.json", "sub/c.jsonl.gz"], ""),
        (["train.jsonl", "test.jsonl", ".cache/more.jsonl", "_more.jsonl", "dataset_info.json"], ""),
        (["train.jsonl", "more.jsonl"], "1, such as .*/more.jsonl"),
        (["a.csv", "b.jsonl", "sub/c.csv"], r"[12], such as .*/(a\.csv|b\.jsonl)"),
    ],
)
def test_files_of_a_folder_that_no_split_has_are_named(tmp_path: Path, names: list[str], left_out: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        content = "prompt,completion\np,c\n" if name.endswith("csv") else '{"prompt": "p", "completion": "c"}\n'
        (tmp_path / name).write_bytes(gzip.compress(content.encode()) if name.endswith("gz") else content.encode())
    notes = " ".join(read_sources({"x": HubSource(str(tmp_path))}).notes.get("x", ()))
    assert bool(notes) == bool(left_out)
    assert re.search(f"to no split are not read: {left_out}" if left_out else "", notes)


def test_the_cause_of_an_error_of_datasets_is_said(tmp_path: Path) -> None:
    (tmp_path / "train.xml").write_text("<a/>")
    with pytest.raises(SourceError, match=r"generating the dataset \(.+\)"):
        read_source("x", HubSource(str(tmp_path)))


def test_packed_files_of_a_folder_and_what_save_to_disk_wrote(tmp_path: Path) -> None:
    import datasets

    packed, saved = tmp_path / "packed", tmp_path / "saved"
    packed.mkdir()
    rows = [{"prompt": "p", "completion": number} for number in (4, 0.5)]
    (packed / "train.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert read_source("x", HubSource(str(packed))).collect()["completion"].to_list() == ["4", "0.5"]
    (packed / "train.jsonl.gz").write_bytes(b"")
    with pytest.raises(SourceError, match=r"train\.jsonl\.gz: the file is empty"):
        read_source("x", HubSource(str(packed)))
    data = datasets.Dataset.from_list([{"prompt": "p", "completion": "c"}])
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(saved)
    assert read_source("x", HubSource(str(saved), split="test")).collect()["split"].to_list() == ["test"]
