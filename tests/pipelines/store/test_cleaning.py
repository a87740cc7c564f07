"""The clean-up: what no run refers to and what killed builds left; never what a living process holds."""

import os
import time
from pathlib import Path

import filelock
import pytest

from pipelines.store.__main__ import main
from pipelines.store.artifacts import Artifact, ArtifactError, build_artifact
from pipelines.store.cleaning import clean
from pipelines.store.runs import last_made, record_run


def made(store: Path, asset: str, number: int, **inputs: Artifact) -> Artifact:
    return build_artifact(
        store,
        asset,
        code_version="1",
        config={"number": number},
        inputs=inputs,
        build=lambda draft: draft.write_json("value", number),
    )


def age(store: Path) -> None:
    """Everything was last used two hours ago."""
    for path in [*store.glob("*/*"), *store.glob("runs/*/*")]:
        os.utime(path, (time.time() - 7200,) * 2)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two runs; what the second made has an input that it did not record."""
    old, documents = made(tmp_path, "clusters", 1), made(tmp_path, "documents", 2)
    record_run(tmp_path, "first", old)
    age(tmp_path)
    record_run(tmp_path, "second", made(tmp_path, "clusters", 3, documents=documents))
    made(tmp_path, "clusters", 4)
    age(tmp_path)
    os.utime(tmp_path / "runs" / "first", (time.time() - 9000,) * 2)
    return tmp_path


def removable(store: Path, **options: int) -> set[str]:
    return {item.path.name for item in clean(store, **options) if item.kept is None and "lock" not in item.why}


def test_inputs_further_up_stay_and_what_no_run_refers_to_can_go(store: Path) -> None:
    unreferenced = [item for item in clean(store, rest_seconds=0) if item.why.startswith("artifact")]
    assert [item.path.name for item in unreferenced] == [made(store, "clusters", 4).fingerprint]
    assert unreferenced[0].size > 100


def test_a_dry_run_removes_nothing(store: Path) -> None:
    before = sorted(store.rglob("*"))
    clean(store, rest_seconds=0)
    assert sorted(store.rglob("*")) == before


def test_delete_leaves_a_store_in_which_everything_is_found(store: Path) -> None:
    clean(store, delete=True, rest_seconds=0)
    documents = made(store, "documents", 2)
    assert documents.reused
    assert made(store, "clusters", 3, documents=documents).reused
    assert not made(store, "clusters", 4).reused
    assert not list(store.glob("*/.*")) + list(store.glob("*/*.damaged-*"))


def test_old_runs_are_forgotten_with_what_only_they_made(store: Path) -> None:
    clean(store, delete=True, keep_runs=1, rest_seconds=0)
    assert [path.name for path in (store / "runs").iterdir()] == ["second"]
    assert not made(store, "clusters", 1).reused


def test_a_partial_build_goes_unless_a_living_process_holds_its_lock(store: Path) -> None:
    partial = store / "clusters" / "0123456789abcdef.partial"
    partial.mkdir()
    (partial / "half").write_bytes(b"x" * 10)
    with filelock.FileLock(partial.with_suffix(".lock")):
        items = {item.path: item for item in clean(store, delete=True, keep_runs=0, rest_seconds=0)}
        assert items[partial].kept == "a living process holds it"
        assert all(item.kept for item in items.values() if item.why.startswith(("artifact", "record")))
    assert partial.is_dir()
    clean(store, delete=True)
    assert not partial.exists()


def test_what_was_used_lately_stays(store: Path) -> None:
    made(store, "clusters", 4)  # found, and its time renewed
    assert removable(store) == set()


def test_damaged_copies_and_unfinished_files_go(store: Path) -> None:
    damaged, unfinished = store / "clusters" / "0123456789abcdef.damaged-7", store / "runs" / "second" / ".a.json.x.tmp"
    damaged.mkdir()
    unfinished.touch()
    os.utime(unfinished, (0, 0))
    clean(store, delete=True)
    assert not damaged.exists()
    assert not unfinished.exists()


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="expected a store"):
        clean(tmp_path, delete=True)


def test_the_command_lists_sizes_and_says_how_to_remove(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["clean", str(store), "--keep-runs", "1"])
    said = capsys.readouterr().out
    assert "record of an old run" in said
    assert "--delete removes them" in said
    with pytest.raises(SystemExit):
        main(["clean", str(store), "--keep-runs", "-1"])


def test_a_clean_up_or_a_copy_does_not_change_which_run_is_the_newest(store: Path) -> None:
    rest = store / "runs" / "first" / ".clusters.json.x.tmp"
    rest.touch()
    age(store)
    clean(store, delete=True)  # it removes the rest, which changes the time of the folder of the older run
    assert not rest.exists()
    assert last_made(store, "clusters").json("value") == 3
    for run in ("second", "first"):  # a copy gives times in its own order
        os.utime(store / "runs" / run)
    assert last_made(store, "clusters").json("value") == 3
    assert "second" not in {item.path.name for item in clean(store, keep_runs=1)}
