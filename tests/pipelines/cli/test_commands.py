import errno
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import polars as pl
import pytest

from tests.analysis.answer.small_corpus import GARDEN, LEDGER, write_records

ROOT = Path(__file__).parents[3]
COMMANDS = ("analyze", "init", "run", "train", "compare", "export", "report", "assign", "serve")


@pytest.fixture
def files(tmp_path):
    return [write_records(tmp_path / "garden.jsonl", GARDEN), write_records(tmp_path / "ledger.jsonl", LEDGER, seed=1)]


def test_help_imports_no_heavy_library():
    code = (
        "import sys; sys.argv = ['hydralora', '--help']\n"
        "from pipelines.cli.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'polars', 'numpy', 'dagster', 'sklearn', 'rich'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert told.splitlines()[-1] == "[]"
    assert all(f"\n  {name} " in told for name in COMMANDS)


def test_help_names_the_methods_that_are_the_default(hydralora):
    from pipelines.cli.configurations import checked_methods
    from pipelines.training.adapters import DEFAULT_METHOD

    assert f"Default: {DEFAULT_METHOD}." in " ".join(hydralora("train", "--help")[1].split())
    assert f"Default: {', '.join(checked_methods([]))}." in " ".join(hydralora("compare", "--help")[1].split())


def test_the_version_is_told(hydralora):
    assert hydralora("--version")[:2] == (0, f"{version('hydralora')}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(hydralora, command):
    code, told, _ = hydralora(command, "--help")
    assert code == 0
    assert f"hydralora {command}" in told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["analyze", "missing.jsonl"], "no data file matches 'missing.jsonl'"),
        (["analyze", ""], "no data file matches ''"),
        (["analyze", "garden.jsonl", "--column", "prompt"], "--column: expected ROLE=NAME"),
        (["analyze", "garden.jsonl", "--column", "prompt=nowhere", "--column", "completion=completion"], "no column"),
        (["init", "missing.jsonl"], "no data file matches"),
        (["init", "garden.jsonl", "--out", "garden.jsonl"], "garden.jsonl exists"),
        (["run", "missing.yaml"], "missing.yaml: expected a run configuration"),
        (["run", "right.yaml", "--job", "nothing"], "--job: expected one of"),
        (
            ["train", "garden.jsonl", "--experts", "many"],
            "--experts: expected one of auto, sources, tasks, clusters, or a number",
        ),
        (["train", "garden.jsonl", "--method", "magic"], "--method: expected rows of hydralora.methods"),
        (["compare", "garden.jsonl", "--method", "magic"], "--method: expected rows of hydralora.methods"),
        (["export", "."], "found no adapter_config.json"),
        (["report", "missing"], "found nothing"),
        (["report", "."], "expected a report.html"),
        (["assign", ".", "garden.jsonl"], "found no corpus_model.json"),
        (["serve", "missing"], "missing"),
        (["serve", "exports", "--port", "99999"], "--port"),
        (["serve", "exports", "--print-config", "vllm"], "expected JSON in exports/serving.json"),
        (["analyze", "same.jsonl"], "expected at least two different prompts"),
        (["analyze", "garden.jsonl", "--out", "garden.jsonl"], "--out: expected a folder that can be written"),
        (["analyze", "garden.jsonl", "--out", "garden.jsonl/below"], "--out: expected a folder that can be written"),
        (["analyze", "garden.jsonl", "--out", "/proc/below"], "--out: expected a folder that can be written"),
        (["analyze", "garden.jsonl", "--column", "prompt=a", "--column", "prompt=b"], "expected each role once"),
        (["analyze", "garden.jsonl", "--max-clusters", "2"], "--max-clusters"),
        (["init", "garden.jsonl", "--out", ".", "--force"], "--out: expected the name of a file"),
        (["init", "garden.jsonl", "--experts", "0"], "--experts: expected one of"),
        (["init", "garden.jsonl", "--experts", "sources"], "--experts sources: expected two files or more"),
        (["init", "garden.jsonl", "--experts", "tasks"], "--experts tasks: expected records with a task, got none"),
        (["train", "garden.jsonl", "--experts", "tasks"], "--experts tasks: expected records with a task, got none"),
        (
            ["init", "garden.jsonl", "--base-model", "/nowhere"],
            "--base-model: expected `embedded`, a folder that exists",
        ),
        (["init", "garden.jsonl", "--base-model", "garden.jsonl"], "--base-model: expected `embedded`"),
        (["init", "garden.jsonl", "--base-model", ""], "--base-model: expected `embedded`"),
        (["init", "garden.jsonl", "--base-model=-owner/name"], "--base-model: expected `embedded`"),
        (["init", "garden.jsonl", "--base-model", "owner/größe"], "--base-model: expected `embedded`"),
        (["analyze", "garden.jsonl", "--against", "missing.jsonl"], "no data file matches 'missing.jsonl'"),
        (["init", "garden.jsonl", "--revision", "abc"], "--revision: expected none with the local model"),
        (["init", "garden.jsonl", "--tokens", "0"], "--tokens"),
        (["run", "nowhere.yaml"], "resources.store.config.directory: expected a folder that can be written"),
        (["export", "odd", "--out", "/proc/below"], "--out: expected a folder that can be written"),
        (["report", ".", "--against", ".", "--out", "/proc/below"], "--out: expected a folder that can be written"),
        (["train", "garden.jsonl", "--base-model", "./nowhere"], "--base-model: expected"),
        (["compare", "garden.jsonl", "--experts", "sources"], "expected two files or more"),
        (["export", "damaged"], "damaged/adapter_config.json: expected JSON"),
        (["export", "unweighted"], "unweighted/adapter_model.safetensors: expected the weights of the adapter"),
        (["export", "torn"], "torn/adapter_model.safetensors: expected the weights of the adapter"),
        (["train", "garden.jsonl", "--method", ""], "--method: expected rows of hydralora.methods"),
        (["export", "odd"], "expected num_experts from 1 up"),
        (["export", "plain"], "which servers load as it is"),
        (["assign", "garden.jsonl", "garden.jsonl"], "found no corpus_model.json"),
        (["assign", ".", "garden.jsonl", "--labels", "garden.jsonl/x"], "corpus_model.json"),
        (["run", "garden.jsonl"], "expected YAML"),
        (["run", "."], "expected a run configuration"),
    ],
)
def test_wrong_input_is_one_sentence_and_code_2(hydralora, files, arguments, sentence):
    files = {"same.jsonl": '{"prompt": "dig a hole", "completion": "so"}\n' * 5, "damaged/adapter_config.json": "{"}
    one = '{"peft_type": "HYDRALORA", "num_experts": 1}'
    files |= {f"{name}/adapter_config.json": one for name in ("unweighted", "torn")} | {
        "torn/adapter_model.safetensors": "{"
    }
    nowhere = "{resources: {store: {config: {directory: /proc/below}}}}"
    files |= {"right.yaml": "{ops: {}}", "nowhere.yaml": nowhere}
    files |= {"odd/adapter_config.json": '{"num_experts": "two"}', "plain/adapter_config.json": '{"peft_type": "LORA"}'}
    for name, text in (files | {"exports/serving.json": "{"}).items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    code, told, error = hydralora(*arguments)
    assert code == 2, error
    assert sentence in error
    assert "Traceback" not in error
    assert told == ""


@pytest.mark.parametrize(
    ("name", "content", "setting"),
    [
        ("odd.jsonl", '{"messages": [{"role": "poet", "content": "x"}]}\n' * 2, 'roles: {"poet": user}'),
        ("odd.csv", "prompt,completion,split\np,c,extra\n", "splits: {extra: train"),
        ("odd.tsv", 'prompt\tcompletion\n"Hi" she said\tc\n', "separator, quote, escape"),
        ("wide.csv", "prompt,completion\np,c\n".encode("utf-16-le"), "encoding: utf-16-le"),
        ("latin.json", '[{"prompt": "caf\xe9"; "completion": "c"}]'.encode("latin-1"), "under `encoding`"),
    ],
)
def test_init_writes_the_configuration_for_files_that_need_a_setting(hydralora, name, content, setting):
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    code, told, error = hydralora("analyze", name)
    assert (code, told) == (2, "")
    assert setting in error
    assert "Settings of a source go into a configuration; `hydralora init` writes it" in error
    code, told, error = hydralora("init", name)
    assert (code, told) == (2, "")
    assert setting in error
    assert "Wrote hydralora.yaml: give the setting there" in error
    assert f"paths: [{name}]" in Path("hydralora.yaml").read_text()
    Path("broken.jsonl").write_text("{\n")
    assert hydralora("init", "broken.jsonl", "--out", "broken.yaml")[0] == 2
    assert not Path("broken.yaml").exists()


def test_a_source_that_vanishes_in_cleaning_is_an_error(hydralora, files):
    Path("mute.jsonl").write_text('{"prompt": "dig a hole", "completion": " "}\n' * 3)
    code, told, error = hydralora("analyze", *files, "mute.jsonl")
    assert (code, told) == (1, "")
    assert "Nothing is left of source 'mute': of 3 records read, cleaning dropped 3 empty_completion. Correct" in error
    assert not Path("analysis/analysis.json").exists()


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_folder_that_cannot_be_written_is_refused_before_torch_is_imported(files, command):
    code = (
        f"import sys; sys.argv = ['hydralora', {command!r}, {str(files[0])!r}, '--out', '/proc/below']\n"
        "from pipelines.cli.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'polars', 'dagster'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "2 []\n"
    assert "--out: expected a folder that can be written" in done.stderr


def test_analyze_and_assign(hydralora, files, tmp_path):
    code, told, progress = hydralora("analyze", *files, "--json")
    answer = json.loads(told)
    assert (code, answer["num_experts"]) == (0, 2)
    assert Path(answer["report"]) == tmp_path / "analysis" / "report.html"
    stages = [line for line in progress.splitlines() if "compiles kernels" not in line]  # of a first start
    assert len(stages) == 6
    named = pl.read_parquet(tmp_path / "analysis" / "map.parquet")
    assert named.columns == ["x", "y", "cluster", "name", "source", "document_id", "text"]
    assert named.null_count().row(0) == (0,) * 7
    assert named.group_by("cluster").agg(pl.col("name").n_unique())["name"].to_list() == [1, 1]
    code, told, _ = hydralora("assign", "analysis", files[0], "--labels", "labels.parquet")
    assert code == 0
    assert "120 documents" in told or "garden" in told
    assert (tmp_path / "labels.parquet").is_file()
    code, told, _ = hydralora("report", "analysis")
    assert told.strip() == str(tmp_path / "analysis" / "report.html")
    model = tmp_path / "analysis/corpus_model"
    nulls = (("reference.json", "n_explained"), ("known_groups/groups.json", "unknown_token_shares"))
    for name, field in nulls:
        kept = (model / name).read_text()
        (model / name).write_text(json.dumps(json.loads(kept) | {field: None}))
        code, told, error = hydralora("assign", "analysis", files[0])
        assert (code, told, error.count("\n")) == (2, "", 1)
        assert f"{name}: {field}: expected" in error
        (model / name).write_text(kept)
    (model / "corpus_model.json").write_text('{"text": "prompt", "of_a_later_version": 1}')
    code, told, error = hydralora("assign", "analysis", files[0])
    assert (code, told) == (2, "")
    assert "analysis/corpus_model: expected files as this version of hydralora writes them" in error


def test_analyze_against_another_corpus(hydralora, files):
    code, told, _ = hydralora("analyze", *files, "--against", files[0], "--json")
    assert code == 0
    compared = json.loads(told)["against"]
    assert {row["first"] for row in compared["clusters"]} == {0, None}
    code, told, _ = hydralora("analyze", *files, "--against", files[0])
    assert "Against the other corpus" in told
    assert "new" in told


def test_what_init_writes_is_a_right_configuration(hydralora, files):
    from pipelines.check import wrong_with

    write_records(Path("odd $name, here.jsonl"), GARDEN, 10)
    code, told, _ = hydralora("init", *files, "odd $name, here.jsonl", "--tokens", 2000)
    assert code == 0
    assert "3 sources" in told
    assert wrong_with(Path("hydralora.yaml"), "hydralora") == ""
    assert hydralora("init", *files, "--experts", 30, "--force")[0] == 0  # more than a run tries by default
    assert wrong_with(Path("hydralora.yaml"), "hydralora") == ""


@pytest.mark.parametrize("force", [False, True])
def test_init_on_a_full_disk_leaves_what_was_there(hydralora, files, monkeypatch, force):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if force:
        Path("hydralora.yaml").write_text("before")
    monkeypatch.setattr("analysis.atomic_files.os.replace", full)
    code, told, error = hydralora("init", *files, *["--force"] * force)
    assert (code, told) == (2, "")
    assert "No space left on the device while writing" in error
    assert [path.read_text() for path in Path().glob("*.yaml")] == ["before"] * force


def test_export_names_a_router_that_cannot_be_exported(hydralora, tmp_path):
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"num_experts": 3, "peft_type": "HYDRALORA", "router_input": "low_rank"})
    )
    code, _, error = hydralora("export", ".")
    assert code == 2
    assert "expected gates that are given" in error


def test_a_job_without_a_report_gives_its_store(tmp_path, capsys):
    from pipelines.cli.running import print_results
    from pipelines.store.io_manager import ArtifactStore

    print_results(ArtifactStore(directory=str(tmp_path / "store")), "sharded", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"job": "sharded", "store": str(tmp_path / "store")}


def test_two_reports_are_compared(hydralora, tmp_path):
    from analysis.report import ReportInputs, write_report

    for name, n_clusters in (("a", 4), ("b", 5)):
        choice = {"num_clusters": n_clusters, "reason": f"It is {n_clusters}."}
        write_report(ReportInputs(title=name, command="make run", choice=choice), tmp_path / name)
    code, told, _ = hydralora("report", "b", "--against", "a", "--out", "both/page.html")
    assert (code, told) == (0, f"{tmp_path / 'both' / 'page.html'}\n")
    page = (tmp_path / "both" / "page.html").read_text("utf-8")
    assert page.index("4 clusters at the elbow") < page.index("5 clusters at the elbow")
    summary = tmp_path / "b" / "summary.json"
    nulled = json.dumps(json.loads(summary.read_text()) | {"choice": None})
    for text, says in (("{", "expected JSON, got"), (nulled, "choice: expected an object, got null")):
        summary.write_text(text)
        code, told, error = hydralora("report", "b", "--against", "a")
        assert (code, told) == (2, "")
        assert f"summary.json: {says}" in error
        assert error.endswith(". Write the report again\n")


@pytest.mark.parametrize("caused", [False, True])
def test_an_interrupt_is_told(hydralora, files, monkeypatch, caused):
    def interrupted(*_arguments):
        if caused:  # in a class that is being defined, as Python 3.11 tells it
            raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.cli.analyzing.columns_of", interrupted)
    code, told, error = hydralora("analyze", "garden.jsonl")
    assert (code, told) == (130, "")
    assert error.startswith("hydralora: stopped.")


def test_an_interrupt_while_the_package_is_imported_is_told():
    stop = "import pathlib\ndef stop(*_): raise KeyboardInterrupt\npathlib.Path.rglob = stop\nimport pipelines"
    done = subprocess.run([sys.executable, "-c", stop], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "hydralora: stopped.\n")


def test_a_title_of_many_sources_cuts_no_name():
    from pipelines.cli.configurations import _title

    assert _title(["General questions (final) v2", "NIH - MedQuAD, santé", "code.all_languages"]).endswith("languages")
    assert _title(["a", "b", "c", "d"]) == "a, b and 2 more"
