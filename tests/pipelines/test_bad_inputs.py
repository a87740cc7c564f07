"""Wrong configurations and wrong files: each gives one sentence, before anything is computed.

`bad_inputs.jsonl` is the table: the job, what is changed in a right configuration, and the sentence. A sentence without
a field is about the field that was changed; `...` stands for anything, `{folder}` for the folder of the test.
"""

import copy
import errno
import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from pipelines.check import wrong_with
from pipelines.checks import problems_of
from pipelines.definitions import build_defs, defs
from pipelines.run_configuration import read_configuration
from pipelines.store.artifacts import RECORD
from pipelines.training.recipe import BaseModel
from tests.hydralora.small import small_tokenizer
from tests.pipelines.small_corpus import corpus_ops, resources

CASES = [json.loads(line) for line in (Path(__file__).parent / "bad_inputs.jsonl").read_text().splitlines()]
CONFIGS = Path(__file__).parents[2] / "pipelines" / "configs"
STUDY = {"domains": {"general": ["sums"]}, "experiments": ["table_1"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bad_inputs")
    (made / "empty").mkdir()
    (made / "manual.pdf").write_bytes(b"%PDF")
    (made / "empty.jsonl").touch()
    resources(made)
    corpus_ops(made)
    return made


def right(job: str, folder: Path) -> dict[str, Any]:
    """A configuration of a job in which nothing is wrong, but that `train` and `one_run` lack what they start from."""
    ops, of_job = corpus_ops(folder), resources(folder)
    match job:
        case "corpus":
            del ops["tokenised_documents"]
            of_job = {"store": of_job["store"]}
        case "compare":
            ops["method_comparison"] = {"config": {"methods": ["hydralora", "lora_matched"]}}
        case "study":
            ops["study_runs"] = {"config": copy.deepcopy(STUDY)}
        case "one_run":
            ops = {"study_run": {"config": {"domains": {"general": ["sums"]}}}}
        case "sharded":
            source = {"name": "sums", "read": {"paths": [str(folder / "sums.jsonl")]}}
            ops = {"sharded_corpus": {"config": {"sources": [source], "out": str(folder / "shards")}}}
            of_job = {"store": of_job["store"]}
        case "assign":
            ops = {"new_document_labels": {"config": {"sources": ops["raw_documents"]["config"]["sources"]}}}
            of_job = {"store": of_job["store"]}
        case "train":
            ops = {"tokenised_documents": ops["tokenised_documents"]}
    return {"ops": ops, "resources": of_job}


def put(config: Any, path: str, value: Any) -> None:
    """Set a field by its dotted path."""
    *parents, last = [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", path)]
    for part in parents:
        config = config.setdefault(part, {}) if isinstance(config, dict) else config[part]
    config[last] = value


def changed(job: str, folder: Path, change: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """A configuration with something wrong, and the partition of its run."""
    config = right(job, folder)
    sources = config["ops"].get("raw_documents", {}).get("config", {}).get("sources", [])
    change = json.loads(json.dumps(change).replace("{folder}", str(folder)))
    for path, value in change.items():
        match value:
            case "every source held out":
                value = copy.deepcopy(sources)
                for source in value:
                    source["read"]["files"]["split"] = "test"
            case "one source":
                value = sources[:1]
        if path != "partition":
            put(config, path, value)
    return config, change.get("partition")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['job']} {case['change']}")
def test_a_wrong_configuration_gives_its_sentence(
    case: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    config, partition = changed(case["job"], folder, case["change"])
    found = [str(problem) for problem in problems_of(defs.resolve_job_def(case["job"]), config, partition)]
    says = case["says"].replace("{folder}", str(folder))
    if not says.startswith(("...", "ops.", "resources.", "tags.", "execution.", "loggers.")):
        says = f"{next(iter(case['change']))}: {says}"
    pattern = ".*".join(re.escape(part) for part in says.split("..."))
    assert any(re.fullmatch(pattern, sentence) for sentence in found), "\n".join(["", says, *found])


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 320


@pytest.mark.parametrize("job", ["corpus", "hydralora", "compare", "study", "sharded"])
def test_a_right_configuration_passes(job: str, folder: Path) -> None:
    assert problems_of(defs.resolve_job_def(job), right(job, folder)) == []


def test_all_that_is_wrong_is_listed_once(folder: Path, tmp_path: Path) -> None:
    config = right("hydralora", folder)
    put(config, "ops.cluster_sweep.config.n_init", 0)
    put(config, "resources.launcher.config.parallel", 0)
    put(config, "ops.baseline_adapters.config.methods", ["lora_matchd"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    first, *lines = wrong_with(tmp_path / "config.yaml", "hydralora").splitlines()
    assert first == "3 things are wrong with the configuration. Nothing was computed."
    assert [line.partition(":")[0] for line in lines] == [
        "ops.cluster_sweep.config.n_init",
        "resources.launcher.config.parallel",
        "ops.baseline_adapters.config.methods",
    ]


def test_no_torch_for_the_corpus_job(folder: Path, tmp_path: Path) -> None:
    """Checked in a process of its own: others of this session have imported it."""
    import subprocess

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(right("corpus", folder)))
    code = (
        "import sys; from pathlib import Path; from pipelines.check import wrong_with;"
        "heavy = {'torch', 'transformers', 'peft', 'umap', 'sentence_transformers'};"
        "print(wrong_with(Path(sys.argv[1]), 'corpus'), heavy & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "config.yaml")]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CONFIGS.parents[1]).stdout
    assert output.strip() == "set()"


def job_of(config: Path) -> str:
    """The job of a shipped configuration, by its name."""
    jobs = {"compare": "compare", "study": "study", "paper": "study", "one": "one_run", "sharded": "sharded"}
    return jobs.get(config.stem.split("-")[0], "hydralora")


@pytest.mark.parametrize(
    "path", [path for path in sorted(CONFIGS.glob("*.yaml")) if path.name != "dagster.yaml"], ids=lambda path: path.stem
)
def test_every_shipped_configuration_passes(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = yaml.safe_load(path.read_text())
    for variable in ("HYDRALORA_CORPORA", "CORPUS"):
        monkeypatch.setenv(variable, str(tmp_path))
    (tmp_path / "any.parquet").write_bytes(b"PAR1")
    for name in re.findall(r"\$HYDRALORA_CORPORA/(\w+\.parquet)", path.read_text()):
        (tmp_path / name).write_bytes(b"PAR1")
    job, partition, known = job_of(path), None, ""
    monkeypatch.chdir(tmp_path)
    if job == "one_run":
        partition = "hydralora:seed-0:0.004"
        config["resources"]["store"]["config"]["from_run"] = finished_run(tmp_path / "outputs" / "study")
    if path.stem == "paper-llama2-7b":  # no hub is reached here; its catalog says which entries have no revision yet
        config["resources"]["base_model"]["config"]["name"] = str(CONFIGS / "llama2-7b")
        monkeypatch.setattr(BaseModel, "tokenizer", lambda model: small_tokenizer())
        known = "expected an entry with a revision"
    problems = [str(problem) for problem in problems_of(defs.resolve_job_def(job), config, partition)]
    assert [problem for problem in problems if not known or known not in problem] == []


def finished_run(store: Path) -> str:
    """A store in which a run of the job study seems to have ended."""
    record = store / "runs" / "0123abcd"
    record.mkdir(parents=True)
    for asset in ("corpus_documents", "document_features", "tokenised_documents", "learning_rates"):
        (record / f"{asset}.json").write_text(json.dumps({"asset": asset, "fingerprint": "f"}))
        (store / asset / "f").mkdir(parents=True)
        (store / asset / "f" / RECORD).touch()
    return record.name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected a mapping with `resources` and `ops`, got nothing."),
        ("- a\n- b\n", "expected a mapping with `resources` and `ops`, got list."),
        ("ops: {a: 1", "expected YAML. while parsing a flow mapping"),
        ("ops: {}\nops: {}\n", "line 2: expected each key once, got 'ops' a second time. Remove one of them."),
        ("ops: !!python/object/apply:os.getcwd []\n", "expected YAML. could not determine a constructor"),
        ("[" * 5000, "expected YAML."),
        ("ops: {a: 010}\n", "line 1: expected a plain number, got 010, which YAML reads as 8."),
        ("ops: {a: 1:30}\n", "line 1: expected a plain number, got 1:30, which YAML reads as 90."),
        ("ops: {}\n---\nops: {}\n", "expected YAML. expected a single document"),
        ("ops: &a {x: *a}\n", "expected YAML. found unconstructable recursive node"),
        ("ops:\n\ta: 1\n", "expected YAML. while scanning"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"{b}: &{b} [{f'*{a}, ' * 8}]\n" for a, b in pairwise("abcdefg")),
            "expected at most 100,000 values, got more: aliases",
        ),
        ("ops: {1: 2}\n", "ops: expected text as the name of a field, got 1."),
    ],
)
def test_a_file_that_is_no_configuration(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert says in wrong_with(tmp_path / "config.yaml", "corpus")


def test_how_a_file_was_written_does_not_matter(tmp_path: Path) -> None:
    plain = "base: &base {x: 1}\nops:\n  a: {<<: *base, y: 2}\n"
    expected = {"base": {"x": 1}, "ops": {"a": {"x": 1, "y": 2}}}
    path = tmp_path / "config.yaml"
    for content in (plain, plain.replace("\n", "\r\n"), f"\ufeff{plain}", json.dumps(expected)):
        path.write_bytes(content.encode())
        assert read_configuration(path) == expected


def test_a_file_that_cannot_be_read_and_a_job_that_does_not_exist(tmp_path: Path) -> None:
    assert "No such file" in wrong_with(tmp_path / "no.yaml", "corpus")
    assert "Is a directory" in wrong_with(tmp_path, "corpus")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00ops")
    assert "expected a run configuration in YAML" in wrong_with(tmp_path / "bytes.yaml", "corpus")
    assert "--job: expected one of hydralora, corpus" in wrong_with(tmp_path / "no.yaml", "corpse")


def test_a_partition_for_a_job_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "ops": {
                    "raw_documents": {
                        "config": {
                            "sources": [{"name": "x", "read": {"files": {"paths": [str(tmp_path / "x.jsonl")]}}}]
                        }
                    }
                }
            }
        )
    )
    assert "partition: expected none" in wrong_with(tmp_path / "config.yaml", "corpus", "lora_r8:seed-0:0.004")


def failure(config: dict[str, Any], job: str = "corpus") -> tuple[str, str | None, int]:
    """The step that failed, its sentence, and how many steps ended well."""
    result = build_defs().resolve_job_def(job).execute_in_process(run_config=config, raise_on_error=False)
    event = next(event for event in result.all_events if event.is_step_failure)
    data = event.step_failure_data
    done = sum(event.event_type == dg.DagsterEventType.STEP_SUCCESS for event in result.all_events)
    return event.step_key or "", data.user_failure_data and data.user_failure_data.description, done


@pytest.mark.parametrize(
    ("job", "path", "value", "says"),
    [
        ("corpus", "ops.cluster_sweep.config.n_init", 0, "expected at least 1, got 0."),
        ("corpus", "ops.cluster_labels.config.examples", -1, "expected at least 1, got -1."),
        ("corpus", "ops.num_clusters.config.value", 2, "expected 3, got 2. With grouping"),
        ("corpus", "ops.num_clusters.config.merge", [[0, 3]], "expected clusters from 0 to 2, got [3]."),
        ("corpus", "ops.num_clusters.config.split", {"a": 2}, "expected numbers of clusters, got ['a']."),
        ("corpus", "ops.raw_documents.config.sources[1].name", "", "expected a name, got ''."),
        ("hydralora", "resources.recipe.config.tokens_per_step", 0, "expected at least 1, got 0."),
        ("hydralora", "resources.launcher.config.parallel", 0, "expected at least 1, got 0."),
        ("hydralora", "ops.baseline_adapters.config.methods", ["lora_matchd"], "expected one of hydralora"),
        ("hydralora", "resources.recipe.config.layers_to_transform", [9], "expected indices of the 2 layers"),
    ],
)
def test_a_job_ends_before_its_first_asset_computes(
    job: str, path: str, value: Any, says: str, folder: Path, tmp_path: Path
) -> None:
    config = right(job, folder)
    put(config, path, value)
    config["resources"]["store"]["config"]["directory"] = str(tmp_path / "store")
    step, sentence, done = failure(config, job)
    assert (step, done) == ("raw_documents", 0)
    assert sentence is not None
    assert sentence.startswith(f"{path}: {says}")
    assert not (tmp_path / "store").exists()


def test_what_stands_where_an_artifact_should(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "raw_documents").symlink_to(tmp_path / "nowhere")
    config = right("corpus", folder)
    config["resources"]["store"]["config"]["directory"] = str(tmp_path)
    _, sentence, done = failure(config)
    assert done == 0
    assert sentence == (
        f"raw_documents: {tmp_path / 'raw_documents'}: File exists (FileExistsError). Remove what stands in its place "
        f"(a file, or a link that leads nowhere), and run again."
    )


def test_a_blocking_check_fails_with_its_sentence(tmp_path: Path) -> None:
    from pipelines.defs.corpus import raw_documents as module
    from pipelines.store.assets import Check, Description, artifact_asset

    def three_records(draft: module.Draft) -> None:  # type: ignore[name-defined]
        draft.write_json("records", [1, 2])

    three_records.__module__ = module.__name__  # of which its code version is made
    asset = artifact_asset(
        group="corpus",
        kinds={"polars"},
        describe=lambda artifact: Description(checks=[Check("enough", False, "2 of 3 records")]),
        blocking={"enough": "There are 3 records."},
    )(three_records)
    given = build_defs().resources or {}
    result = dg.materialize(
        [asset],
        resources={**given, "store": given["store"].model_copy(update={"directory": str(tmp_path)})},
        raise_on_error=False,
    )
    event = next(event for event in result.all_events if event.is_step_failure)
    sentence = "three_records: the check enough failed. Expected: There are 3 records. Found: 2 of 3 records."
    assert event.step_failure_data.user_failure_data.description == sentence
    assert not result.get_asset_check_evaluations()[0].passed
    assert event.step_failure_data.error.cause is None


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b: Permission denied (PermissionError)."),
        (OSError(errno.EROFS, "Read-only file system", "/a"), "Set resources.store.config.directory to a folder"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (MemoryError(), "too little memory."),
    ],
)
def test_errors_of_the_machine_are_a_sentence_with_a_stack_trace_for_the_ui(error: Exception, says: str) -> None:
    from pipelines.store.failures import clear_failures

    with pytest.raises(dg.Failure, match=re.escape(says)) as caught, clear_failures("evaluation"):
        raise error
    assert str(caught.value.description).startswith("evaluation: ")
    assert caught.value.__cause__ is None
    assert "stack_trace" in caught.value.metadata
    assert not caught.value.allow_retries


def test_a_bug_keeps_its_stack_trace() -> None:
    from pipelines.store.failures import clear_failures

    with pytest.raises(ZeroDivisionError), clear_failures("evaluation"):
        _ = 1 / 0
    with pytest.raises(ValueError, match="invalid literal"), clear_failures("evaluation"):
        int("three")


def test_a_value_that_our_own_code_refuses_is_a_sentence() -> None:
    from analysis.text.characters import checked_tokens
    from pipelines.store.failures import clear_failures

    with pytest.raises(dg.Failure) as caught, clear_failures("document_features"):
        checked_tokens("letters")
    assert "letters" in str(caught.value.description)
    assert not caught.value.allow_retries
