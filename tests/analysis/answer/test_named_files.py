import os

import pytest

from analysis.answer.named_files import check_splits, left_out, named_sources, read_named
from analysis.sources import SourceError
from tests.analysis.answer.small_corpus import GARDEN, write_records


def test_a_file_is_a_source_of_its_own_name(tmp_path):
    for name in ("first.jsonl", "second.jsonl"):
        write_records(tmp_path / name, GARDEN, 3)
    assert list(named_sources([tmp_path])) == ["first", "second"]


def test_equal_names_in_two_folders_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        write_records(tmp_path / folder / "notes.jsonl", GARDEN, 3)
    assert list(named_sources([str(tmp_path / "*" / "notes.jsonl")])) == ["a/notes", "b/notes"]


def test_shards_and_splits_of_one_table_are_one_source(tmp_path):
    for name in ("sums_train-00000-of-00002", "sums_train-00001-of-00002", "sums_test"):
        write_records(tmp_path / f"{name}.jsonl", GARDEN, 3, split=name.split("_")[1][:4].rstrip("-"))
    sources = named_sources([tmp_path])
    assert list(sources) == ["sums"]
    assert len(sources["sums"].paths) == 3


def test_the_folder_names_a_table_whose_files_are_named_by_split_alone(tmp_path):
    for name in ("train-00000-of-00001", "validation-00000-of-00001"):
        write_records(tmp_path / "poems" / "data" / f"{name}.jsonl", GARDEN, 3)
    assert list(named_sources([tmp_path / "poems" / "data"])) == ["data"]


def test_held_out_files_without_a_column_split_are_refused(tmp_path):
    for name in ("sums_train", "sums_test"):
        write_records(tmp_path / f"{name}.jsonl", GARDEN, 3, seed=len(name))
    with pytest.raises(SourceError, match=r"sums_test.jsonl: expected a column `split`"):
        read_named(named_sources([tmp_path]))


def test_a_path_without_data_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    for path in (tmp_path, tmp_path / "missing.jsonl"):
        with pytest.raises(SourceError, match="no data file matches"):
            named_sources([path])


def test_the_folders_of_save_to_disk_are_splits_of_one_table(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "saved" / split).mkdir(parents=True)
        for name in ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow", "state.json", "dataset_info.json"):
            (tmp_path / "saved" / split / name).touch()
    (tmp_path / "saved" / "dataset_dict.json").touch()
    [(name, source)] = named_sources([tmp_path / "saved"]).items()
    assert name == "saved"
    assert [path.rpartition("saved/")[2] for path in source.paths] == [
        f"{split}/data-0000{i}-of-00002.arrow" for split in ("test", "train") for i in (0, 1)
    ]
    with pytest.raises(SourceError, match="expected a column `split`"):
        check_splits(source, [None])


@pytest.mark.parametrize(
    "parts",
    [
        ("train/0000.parquet", "train/0001.parquet", "test/0000.parquet"),
        ("train/part-00000-ab-c000.snappy.parquet", "test/part-00000-cd-c000.snappy.parquet"),
    ],
)
def test_parts_with_numbers_for_names_belong_to_the_table_of_their_folder(tmp_path, parts):
    for name in parts:
        write_records(tmp_path / "poems" / name, GARDEN, 3)
    [(name, source)] = named_sources([tmp_path / "poems"]).items()
    assert (name, len(source.paths)) == ("poems", len(parts))
    with pytest.raises(SourceError, match=r"test/.*expected a column `split`"):
        check_splits(source, [None])


def test_what_datasets_puts_beside_data_is_no_data_and_links_add_none(tmp_path):
    for name in ("a.jsonl", "dataset_infos.json", "cache-0a1b.arrow"):
        write_records(tmp_path / name, GARDEN, 3)
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "a.jsonl")
    assert list(named_sources([tmp_path, tmp_path / "a.jsonl"])) == ["a"]
    (tmp_path / "c.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(SourceError, match=r"c\.jsonl: .*No such file"):
        read_named(named_sources([tmp_path]))


def test_a_name_that_is_not_utf8_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).touch()
    with pytest.raises(SourceError, match=r"caf.\.jsonl: expected the name of a file in UTF-8"):
        named_sources([tmp_path])


def test_results_of_hydralora_in_a_folder_are_no_data(tmp_path):
    results = ["out/analysis.json", "out/map.parquet", "out/corpus_model/corpus_model.json", "exports/serving.json"]
    results += [
        "exports/garden/adapter_config.json",
        "exports/group_model/classifier.json",
        "exports/group_model/t.json",
    ]
    results += ["outputs/runs/0a/labels.json", "outputs/labels/1b/artifact.json", "outputs/labels/1b/labels.parquet"]
    for name in ("garden.jsonl", "runs/third.jsonl", "more/analysis.json", *results):
        write_records(tmp_path / name, GARDEN, 3)
    assert list(named_sources([tmp_path])) == ["garden", "analysis", "third"]
    assert list(named_sources([tmp_path / "outputs/labels/1b"])) == ["artifact", "labels"]  # asked for by name


def test_a_folder_that_cannot_be_read_is_named_and_hidden_files_are_left(tmp_path, monkeypatch):
    for name in ("open/a.jsonl", "open/.cache/b.jsonl", "open/.c.jsonl", "closed/d.jsonl"):
        write_records(tmp_path / name, GARDEN, 3)
    assert list(named_sources([tmp_path / "open"])) == ["a"]
    assert list(left_out([tmp_path / "open", tmp_path / "open" / "a.jsonl"])) == []
    (tmp_path / "open" / "e.xlsx").touch()
    assert "not read: 1, such as e.xlsx" in " ".join(left_out([tmp_path / "open"]))
    scandir = os.scandir

    def scanned(path):
        if str(path).endswith("closed"):  # the tests may run as root, who may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", scanned)
    with pytest.raises(SourceError, match=r"closed: expected a folder that can be read \(Permission denied\)"):
        named_sources([tmp_path])
