import pytest
from datasets import Dataset

from hydralora.data import DataError, documents_of_split


def table(tmp_path, splits):
    rows = [{"prompt": f"p{i}", "completion": "c", "source": "s", "split": name} for i, name in enumerate(splits)]
    path = tmp_path / "documents.parquet"
    Dataset.from_list(rows).to_parquet(path)
    return path


def test_each_side_has_its_own_rows(tmp_path):
    path = table(tmp_path, ["train", "test", None, "Validation", "training"])
    assert documents_of_split(path, "train")["prompt"][:] == ["p0", "p2", "p4"]
    assert documents_of_split(path, "test")["prompt"][:] == ["p1", "p3"]


def test_a_table_without_splits_is_whole(tmp_path):
    path = tmp_path / "plain.parquet"
    Dataset.from_list([{"prompt": "p", "completion": "c", "source": "s"}]).to_parquet(path)
    assert len(documents_of_split(path, "train")) == len(documents_of_split(path, "test")) == 1


@pytest.mark.parametrize(("splits", "found"), [(["train", "gold"], r"\['gold'\]"), (["test"], "expected rows of the")])
def test_what_is_not_clear_is_refused(tmp_path, splits, found):
    with pytest.raises(DataError, match=found):
        documents_of_split(table(tmp_path, splits), "train")
