import pytest

from analysis.answer.named_files import named_sources, read_named
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
