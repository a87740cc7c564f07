"""The corpus job on real text, and what a person sees when its input is bad."""

import json
import random
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from analysis.clusters.assignment import assign_records
from analysis.corpus.data_card import halved_sources
from analysis.experts.prompt_classifier import PromptClassifier
from analysis.experts.prompt_gates import load_group_model
from pipelines.definitions import build_defs
from pipelines.defs.corpus.corpus_documents import CorpusConfig
from pipelines.defs.new_data.new_document_labels import NewDocumentsConfig
from pipelines.store.io_manager import ArtifactStore


def run(
    store: Path,
    sources: list[dict[str, object]],
    *,
    raises: bool = True,
    only: list[str] | None = None,
    on_error: str = "raise",
    **ops: object,
) -> dg.ExecuteInProcessResult:
    job = build_defs().resolve_job_def("corpus")
    config = {
        "resources": {"store": {"config": {"directory": str(store)}}},
        "ops": {"raw_documents": {"config": {"sources": sources, "on_error": on_error}}}
        | {name: {"config": value} for name, value in ops.items()},
    }
    chosen = only and [dg.AssetKey(name) for name in only]
    return job.execute_in_process(run_config=config, raise_on_error=raises, asset_selection=chosen)


def failure(store: Path, sources: list[dict[str, object]], **ops: object) -> str:
    """Step and error text of the first failed step."""
    result = run(store, sources, raises=False, **ops)
    event = next(event for event in result.all_events if event.is_step_failure)
    error = event.step_failure_data.error
    while error.cause is not None:
        error = error.cause
    failure_data = event.step_failure_data.user_failure_data
    return f"{event.step_key}: {failure_data.description if failure_data else error.message}"


def files(name: str, path: Path | str, **more: object) -> dict[str, object]:
    return {"name": name, "read": {"files": {"paths": [str(path)], **more}}}


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def real(shared_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """Three real corpora, 300 records each, split by the pipeline."""
    folder = tmp_path_factory.mktemp("corpora")
    for name in ("gsm8k", "medquad", "legalbench"):
        sample = pl.read_parquet(shared_corpora / f"{name}_train.parquet").drop("split").sample(300, seed=1)
        sample.write_parquet(folder / f"{name}.parquet")
    return [files(path.stem, path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def finished(real: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with a finished run on the real corpora, and the run's id."""
    store = tmp_path_factory.mktemp("finished") / "store"
    result = run(store, real)
    assert result.success
    return store, result.run_id


def test_real_corpora_give_clusters_and_a_second_run_does_no_work(
    real: list[dict[str, object]], finished: tuple[Path, str]
) -> None:
    store = ArtifactStore(directory=str(finished[0]))
    answer = store.last("num_clusters").json("num_clusters")
    assert 2 <= answer["num_clusters"] <= 8
    labels = store.last("cluster_labels").read("labels")
    assert labels["cluster"].n_unique() == answer["num_clusters"]
    dropped = store.last("corpus_documents").read("dropped")
    assert len(labels) + len(dropped) == 900
    assert dropped["reason"].null_count() == 0

    second = run(finished[0], real)
    reused = {
        event.asset_key.path[-1]: event.step_materialization_data.materialization.metadata["reused"].value
        for event in second.get_asset_materialization_events()
    }
    assert set(reused.values()) == {True}
    assert_the_web_ui_has_something_to_show(second)


def test_small_tasks_share_the_last_cluster(real: list[dict[str, object]], finished: tuple[Path, str]) -> None:
    asked = {"num_clusters": {"tail": True}, "expert_assignment": {"grouping": "clusters"}}
    assert run(finished[0], real, **asked).success
    store = ArtifactStore(directory=str(finished[0]))
    choice, labels = store.last("num_clusters").json("num_clusters"), store.last("cluster_labels")
    tail = choice["tail"]["cluster"]
    assert choice["num_clusters"] == tail + 1 == choice["value"] + 1
    assert f"Cluster {tail} is the tail of small tasks" in choice["reason"]
    documents = store.last("corpus_documents").read("documents")
    in_tail = labels.read("labels")["cluster"] == tail
    assert (in_tail & (documents["split"] == "train")).sum() == labels.read("tail")["n_documents"].sum()
    assert documents.filter(in_tail)["source"].mode().to_list() == ["legalbench"]
    assert store.last("cluster_names").read("names")["name"][tail] == "tail of small tasks"

    # A held-out document's expert is read off its prompt.
    experts = store.last("expert_assignment")
    assert isinstance(load_group_model(experts.path("group_model")), PromptClassifier)
    assert experts.json("expert_assignment")["num_experts"] == choice["num_clusters"]
    new = assign_records(documents.lazy(), labels.path("corpus_model"))
    assert new.summary.cluster_counts[tail] > 0
    assert not new.drift.reconsider
    page = store.last("corpus_report").path("report.html").read_text()
    assert f"The {choice['tail']['n_communities']} parts of the tail" in page


def assert_the_web_ui_has_something_to_show(result: dg.ExecuteInProcessResult) -> None:
    """Every check has a number to plot, every column says what it holds, and no number has seventeen digits."""
    checks = result.get_asset_check_evaluations()
    assert len(checks) == 19
    for check in checks:
        assert [value for value in check.metadata.values() if isinstance(value.value, int | float)], check.check_name
    for event in result.get_asset_materialization_events():
        metadata = event.step_materialization_data.materialization.metadata
        if "dagster/column_schema" in metadata:
            assert all(column.description for column in metadata["dagster/column_schema"].schema.columns), event
        numbers = [value.value for value in metadata.values() if isinstance(value.value, float)]
        assert all(len(f"{number:.12g}") <= 9 for number in numbers), (event.asset_key, numbers)


def test_another_configuration_is_another_data_version(
    real: list[dict[str, object]], finished: tuple[Path, str]
) -> None:
    versions = set()
    needed = ["raw_documents", "corpus_documents", "document_features", "cluster_sweep"]
    for largest in (3, 5):
        result = run(finished[0], real, only=needed, cluster_sweep={"max_clusters": largest})
        event = result.asset_materializations_for_node("cluster_sweep")[0]
        versions.add(event.tags["dagster/data_version"])
    assert len(versions) == 2


def test_failing_source_is_named_and_the_others_go_on_if_asked(real: list[dict[str, object]], tmp_path: Path) -> None:
    folder = {"name": "lost_hub", "read": {"hub": {"dataset": str(tmp_path / "nowhere")}}}
    broken = [*real, files("lost", tmp_path / "nothing.jsonl"), folder]
    said = failure(tmp_path / "store", broken)
    assert "sources[3].read.files.paths[0]: expected a file" in said
    assert "sources[4].read.hub.dataset: expected an id on the hub (owner/name), or a folder that exists" in said
    assert run(tmp_path / "store", broken, only=["raw_documents", "corpus_documents"], on_error="skip").success
    failures = ArtifactStore(directory=str(tmp_path / "store")).last("raw_documents").json("failures")
    assert list(failures) == ["lost", "lost_hub"]
    assert "no file matches" in failures["lost"]
    assert "nowhere: expected an id on the hub (owner/name), or a folder that exists" in failures["lost_hub"]


def test_bad_sources_give_one_clear_error(tmp_path: Path) -> None:
    store = tmp_path / "store"
    no_column = write(tmp_path / "columns.jsonl", [{"question_text": "2 + 2?", "solution": "4"}])
    assert "question_text" in failure(store, [files("x", no_column)])
    (tmp_path / "empty.jsonl").write_text("")
    assert "empty" in failure(store, [files("x", tmp_path / "empty.jsonl")])
    assert "not set" in failure(store, [files("x", "$NO_SUCH_VARIABLE/*.jsonl")])
    same = write(tmp_path / "same.jsonl", [{"prompt": "", "completion": "b"}] * 5)
    assert "Nothing is left of source 'x': of 5 records read" in failure(store, [files("x", same)])


def test_bad_documents_are_counted_each_with_its_reason(tmp_path: Path) -> None:
    good = [
        {"prompt": f"How many {fruit} has {name} after buying {i} more?", "completion": f"{name} has {i}."}
        for fruit in ("apples", "pears", "plums")
        for name in ("Tom", "Ann", "Eve")
        for i in range(15)
    ]
    scripts = (
        "今日は天気がいいので、市場に行きます",
        "Привет, как дела сегодня",
        "مرحبا كيف حالك اليوم",
        "ΣΊΣΥΦΟΣ İstanbul 👩‍👩‍👧",
    )
    kept = [
        {"prompt": "a NUL\0byte inside", "completion": "goes\0away"},
        {"prompt": "the of and to in", "completion": "only stop words"},
        {"prompt": "?", "completion": "no word at all"},
        *({"prompt": text, "completion": "a script"} for text in scripts),
    ]
    dropped = {
        "empty_prompt": [{"prompt": "", "completion": "x"}, {"prompt": "\0 \n", "completion": "x"}, {"prompt": None}],
        "empty_completion": [{"prompt": "Why?", "completion": " "}],
        "prompt_too_long": [{"prompt": "word " * 10_000_000, "completion": "50 MB"}],
        "exact_duplicate": good[:1] * 20,
    }
    path = tmp_path / "documents.jsonl"
    rows = [*good, *kept, *(row for rows in dropped.values() for row in rows)]
    broken = b'{"prompt": "bytes \xff\xfe that are not UTF-8", "completion": "x"}\n'
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode() + broken)
    result = run(
        tmp_path / "store", [files("x", path, split="train")], corpus_documents={"near_duplicate_threshold": None}
    )
    assert result.success
    store = ArtifactStore(directory=str(tmp_path / "store"))
    corpus = store.last("corpus_documents")
    expected = {reason: len(rows) for reason, rows in dropped.items()} | {"invalid_utf8": 1}
    assert dict(corpus.read("dropped").group_by("reason").len().iter_rows()) == expected
    assert corpus.json("data_card")["n_dropped"] == sum(expected.values())
    prompts = corpus.read("documents")["prompt"].to_list()
    assert len(prompts) == len(good) + len(kept)
    assert {"a NULbyte inside", *scripts} <= set(prompts)
    statistics = store.last("document_features").json("statistics")
    assert (statistics["n_documents"], statistics["n_without_words"]) == (len(prompts), 1)
    warned = {check.check_name for check in result.get_asset_check_evaluations() if not check.passed}
    assert "no_zero_rows" in warned


def test_columns_of_the_wrong_type_and_texts_without_words_give_one_clear_error(tmp_path: Path) -> None:
    for name, values in (("binary", [b"ab"]), ("struct", [{"a": 1}]), ("list", [[1, 2]])):
        pl.DataFrame({"prompt": values, "completion": ["x"]}).write_parquet(tmp_path / f"{name}.parquet")
        text = failure(tmp_path / "store", [files("x", tmp_path / f"{name}.parquet")])
        assert text.startswith(f"raw_documents: source 'x': {tmp_path / name}.parquet: row 1, column 'prompt': found ")
    signs = write(tmp_path / "signs.jsonl", [{"prompt": f"? {i} !", "completion": "x"} for i in range(9)])
    text = failure(tmp_path / "store", [files("x", signs, split="train")])
    assert (
        text
        == "document_features: document_features: expected texts with words of at least two characters, got "
        + ("none in 9 texts")
    )


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "p", "completion": "c"}])
    text = failure(tmp_path / "store", [files("mine", path), files("mine", path)])
    field = "ops.raw_documents.config.sources"
    assert text.startswith(f"raw_documents: {field}: expected unique names, got ['mine'] more than once")
    for other in (CorpusConfig, NewDocumentsConfig):
        name = "evaluation_sets" if other is CorpusConfig else "sources"
        with pytest.raises(dg.Failure) as raised:
            other(**{name: [files("exam", path), files("exam", path)]})
        assert "got ['exam'] more than once" in str(raised.value.description)


def test_a_source_that_vanishes_stops_the_run_and_half_of_one_is_a_warning(tmp_path: Path) -> None:
    pairs = [{"prompt": f"What is the number {i} squared?", "completion": f"It is {i * i}."} for i in range(60)]
    good = files("good", write(tmp_path / "good.jsonl", pairs))
    empty = files("empty", write(tmp_path / "empty.jsonl", [{"prompt": "Why?", "completion": ""}] * 3))
    result = run(tmp_path / "store", [good, empty], raises=False)
    assert not result.success
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    gone = checks["no_source_vanished"]
    assert not gone.passed
    assert "source 'empty': of 3 records read, cleaning dropped 3 empty_completion." in str(gone.description)

    half = [{"prompt": "Why?", "completion": ""}] * 8 + [{"prompt": "Who is it?", "completion": "A friend of ours."}]
    assert run(tmp_path / "store", [good, files("half", write(tmp_path / "half.jsonl", half))]).success
    artifact = ArtifactStore(directory=str(tmp_path / "store")).last("corpus_documents")
    (sentence,) = halved_sources(artifact.json("data_card"))
    assert sentence == "Source 'half' has lost 8 of 9 records: 8 empty_completion"


@pytest.mark.parametrize("copies", [1, 50])
def test_one_document_is_one_expert(tmp_path: Path, copies: int) -> None:
    path = write(
        tmp_path / "one.jsonl", [{"prompt": "What is a hydra?", "completion": "A beast with many heads."}] * copies
    )
    assert run(tmp_path / "store", [files("x", path, split="train")]).success
    store = ArtifactStore(directory=str(tmp_path / "store"))
    answer = store.last("num_clusters").json("num_clusters")
    assert answer["num_clusters"] == 1
    assert not answer["structure"]


def test_edited_clusters_are_those_of_all_later_assets(tmp_path: Path) -> None:
    """Two subjects become one, another becomes two; the assets after N know nothing of it."""
    subjects = ("red apple pear plum", "north harbour ship sail", "brass horn drum flute", "court judge law jury")
    chance = random.Random(0)
    rows = [
        {"prompt": " ".join(chance.choices(words.split(), k=6)) + f" {i}", "completion": f"answer {i}"}
        for words in subjects
        for i in range(40)
    ]
    path = write(tmp_path / "four.jsonl", rows)
    store = ArtifactStore(directory=str(tmp_path / "store"))
    clusters = {"grouping": "clusters"}
    assert run(tmp_path / "store", [files("x", path)], num_clusters={"value": 4}, expert_assignment=clusters).success
    before = store.last("cluster_labels").read("labels")
    edits = {"value": 4, "merge": [[0, 2]], "split": {"1": 2}}
    names = {"names": {"0": "Fruit and <music>"}}
    ops = {"num_clusters": edits, "expert_assignment": clusters, "cluster_names": names}
    assert run(tmp_path / "store", [files("x", path)], **ops).success
    points = store.last("cluster_names").read("map")
    assert points.columns == ["x", "y", "cluster", "name", "source", "document_id", "text"]
    assert set(points.filter(pl.col("cluster") == 0)["name"]) == {"Fruit and <music>"}
    assert "Cluster 0: Fruit and &lt;music&gt;" in store.last("corpus_report").path("report.html").read_text()
    answer = store.last("num_clusters").json("num_clusters")
    assert answer["num_clusters"] == 4
    assert "0 and 2 are one, 1 is split into 2: 4 clusters." in answer["reason"]
    both = before.join(store.last("cluster_labels").read("labels"), on="document_id", suffix="_edited")
    moved = {cluster: set(part["cluster_edited"]) for (cluster,), part in both.group_by("cluster")}
    assert moved == {0: {0}, 1: {1, 3}, 2: {0}, 3: {2}}
    experts = store.last("expert_assignment").json("expert_assignment")
    assert (experts["num_experts"], experts["group_kind"]) == (4, "cluster")


def test_asked_for_more_experts_than_documents(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {word}?", "completion": f"{word} is a word"} for word in ("alpha", "beta", "gamma")]
    path = write(tmp_path / "three.jsonl", rows)
    text = failure(tmp_path / "store", [files("x", path, split="train")], num_clusters={"value": 50})
    assert "num_clusters" in text
    assert "50" in text


def test_documents_that_arrive_later(finished: tuple[Path, str], shared_corpora: Path) -> None:
    store, run_id = finished
    assign = build_defs().resolve_job_def("assign")

    def verdict(*names: str) -> dg.AssetCheckEvaluation:
        new = [files(name, shared_corpora / f"{name}_test.parquet") for name in names]
        resources = {"store": {"config": {"directory": str(store), "from_run": run_id}}}
        config = {"resources": resources, "ops": {"new_document_labels": {"config": {"sources": new}}}}
        return assign.execute_in_process(run_config=config).get_asset_check_evaluations()[0]

    same = verdict("gsm8k", "medquad", "legalbench")
    assert same.passed
    new = verdict("mbxp")
    assert not new.passed
    assert new.severity == dg.AssetCheckSeverity.WARN
    assert new.description.startswith("Reconsider N")
    labels = ArtifactStore(directory=str(store)).last("new_document_labels").read("labels")
    assert len(labels) == len(pl.read_parquet(shared_corpora / "mbxp_test.parquet"))
