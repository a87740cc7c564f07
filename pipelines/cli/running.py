"""`hydralora run`, `train` and `compare`: Dagster jobs in this process."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.cli.configurations import (
    Request,
    base_model_values,
    checked_experts,
    checked_methods,
    checked_tasks,
    has_gpu,
    job_values,
)
from pipelines.cli.output import checked_folder, columns_of, fail, one_error, print_json

if TYPE_CHECKING:
    import polars as pl

    from analysis.sources.files import FilesSource
    from pipelines.store.io_manager import ArtifactStore

TRAINED = ("tokenised_documents", "hydralora_adapter")
REPORT_OF = {"hydralora": "report", "train": "report", "corpus": "corpus_report"}
"""Job -> the asset with its report. Other jobs have none."""
LEAST_COMPARED = 50
"""Records of each file that a comparison needs, because a tenth of them is held out to measure on."""


def run_file(path: Path, job: str, partition: str | None, as_json: bool) -> None:
    """Check a configuration, run a job, and print N, the verdict and the path of the report."""
    from pipelines.run_configuration import ConfigurationError, read_configuration

    with one_error(ConfigurationError):
        configuration = read_configuration(path)
    checked_home()
    _checked_store(configuration)
    from pipelines import definitions  # noqa: F401 - it imports all assets, which `for_job` knows then
    from pipelines.check import wrong_values
    from pipelines.jobs import JOBS, for_job
    from pipelines.store.io_manager import store_of

    if job not in (names := [one.name for one in JOBS]):
        fail(f"--job: expected one of {', '.join(names)}, got {job!r}.")
    values = for_job(configuration, job)
    if wrong := wrong_values(values, job, partition):
        fail(wrong)
    made = _execute(values, job, file=str(path), partition=partition)
    print_results(store_of(path).after(made), job, as_json)


def _checked_store(configuration: Mapping[str, Any]) -> None:
    """End if the store cannot be made or written; a store with finished runs may be on a read-only disk."""
    folder: Any = configuration
    for name in ("resources", "store", "config", "directory"):
        folder = folder.get(name) if isinstance(folder, dict) else None
    if isinstance(folder, str) and not Path(folder, "runs").is_dir():
        checked_folder(Path(folder), "resources.store.config.directory")


def print_results(store: "ArtifactStore", job: str, as_json: bool) -> None:
    """N, losses and the report of a run; of a comparison its table. As JSON, other jobs give their store."""
    from pipelines.store.artifacts import ArtifactError
    from pipelines.summary import corpus_summary, summary

    if job == "compare":
        tell_comparison(store, as_json)
    elif as_json and job in REPORT_OF:
        with one_error(ArtifactError, OSError):
            made = store.last(REPORT_OF[job])
            print_json({**made.json("summary"), "report": str(made.path("report.html").resolve())})
    elif as_json:
        print_json({"job": job, "store": str(Path(store.directory).resolve())})
    elif job in ("hydralora", "train"):
        print(summary(store))
    elif job == "corpus":
        print(corpus_summary(store))


def _sources(request: Request, job: str) -> "dict[str, FilesSource]":
    """The files, which have been read. Ends for all that can be seen before torch is imported."""
    mapping = columns_of(request.columns)
    checked_folder(request.out)
    checked_home()
    with one_error(ValueError, OSError):
        base_model_values(request.base_model, request.revision)
        from analysis.answer.named_files import named_sources, read_named

        sources = named_sources(request.files, mapping)
        checked_experts(request.experts, len(sources))
        read = read_named(sources)
        checked_tasks(request.experts, read.records)
        if job == "compare":
            _checked_sizes(read.records)
    return sources


def _values(request: Request, job: str, sources: "Mapping[str, FilesSource]", ops: Mapping[str, Any]) -> dict[str, Any]:
    """The run configuration of a job, checked."""
    from pipelines.check import wrong_values

    values = job_values(request, sources, ops, gpu=has_gpu())
    if wrong := wrong_values(values, job):
        fail(wrong)
    return values


def train_files(request: Request, method: str | None, as_json: bool) -> None:
    """Train one adapter: the main job up to `hydralora_adapter`."""
    sources = _sources(request, "train")
    from pipelines.store.io_manager import ArtifactStore
    from pipelines.training.adapters import DEFAULT_METHOD, adapter_config

    method = DEFAULT_METHOD if method is None else method
    _known_methods([method])
    values = _values(request, "hydralora", sources, {"hydralora_adapter": {"config": {"method": method}}})
    made = _execute(values, "hydralora", _assets(TRAINED))
    store = ArtifactStore(directory=str(request.out)).after(made)
    adapter, chosen = store.last("hydralora_adapter"), store.last("expert_assignment").json("expert_assignment")
    answer = {
        "num_experts": chosen["num_experts"],
        "reason": chosen["reason"],
        "adapter": str(adapter.folder.resolve()),
    }
    if as_json:
        print_json(answer)
        return
    print(f"\nN = {answer['num_experts']}. {answer['reason']}\nAdapter: {answer['adapter']}")
    if "num_experts" in adapter_config(adapter.folder):
        print(f"Next: hydralora export {shlex.quote(str(adapter.folder))}")


def compare_files(request: Request, methods: Sequence[str], as_json: bool) -> None:
    """Compare methods: the job `compare`."""
    sources = _sources(request, "compare")
    compared = checked_methods(methods)
    _known_methods(compared)
    ops = {
        "method_comparison": {"config": {"methods": list(compared), "cost_steps": 0}},
        "comparison_documents": {"config": {"validation_documents_per_source": 0}},  # no rate is tuned
    }
    values = _values(request, "compare", sources, ops)
    made = _execute(values, "compare")
    from pipelines.store.io_manager import ArtifactStore

    tell_comparison(ArtifactStore(directory=str(request.out)).after(made), as_json)


def _checked_sizes(records: "pl.LazyFrame") -> None:
    """Raise a ValueError if a source without a split of its own has too few records to hold some out."""
    import polars as pl

    sizes = records.group_by("source").agg(n=pl.len(), own=pl.col("split").is_not_null().any()).sort("source").collect()
    few = [f"{source} ({n})" for source, n, own in sizes.rows() if n < LEAST_COMPARED and not own]
    if few:
        raise ValueError(
            f"compare: expected at least {LEAST_COMPARED} records in each file, because a tenth is held out to measure "
            f"on; got {', '.join(few)}. Give more, or a column `split` with train and test"
        )


def tell_comparison(store: "ArtifactStore", as_json: bool) -> None:
    """The table of a comparison."""
    table = store.last("method_comparison")
    if as_json:
        print_json(table.read("comparison").to_dicts())
        return
    print(table.path("comparison.md").read_text())
    print(f"Table and figure: {table.folder.resolve()}")


def checked_home() -> None:
    """End if DAGSTER_HOME, `.dagster` in the working folder by default, cannot be written."""
    os.environ["DAGSTER_HOME"] = str(Path(os.environ.get("DAGSTER_HOME") or ".dagster").resolve())
    checked_folder(Path(os.environ["DAGSTER_HOME"]), "DAGSTER_HOME (.dagster in the working folder by default)")


def _prepare_home() -> None:
    """Make DAGSTER_HOME ready, and end runs that were killed."""
    from pipelines.home import HomeError, prepare

    with one_error(HomeError, OSError):
        for run_id in prepare(Path(os.environ["DAGSTER_HOME"])):
            print(f"Run {run_id} had no living process: reported as failed.", file=sys.stderr)


def _execute(
    values: dict[str, Any], job: str, assets: Sequence[str] | None = None, **how: str | None
) -> dict[str, str]:
    from pipelines.run import run
    from pipelines.store.files.disk import DiskFullError, clear_disk_errors

    home = Path(os.environ["DAGSTER_HOME"])
    with one_error(DiskFullError), clear_disk_errors(home, "set DAGSTER_HOME to a folder on a larger disk"):
        _prepare_home()
        made = run(values, job, assets=assets, **how)
    if made is None:
        raise SystemExit(1)
    return made


def _assets(last: Sequence[str]) -> list[str]:
    """The assets of the job `corpus`, and some after it."""
    from pipelines.definitions import defs

    corpus = defs.resolve_job_def("corpus").asset_layer.executable_asset_keys
    return sorted({key.path[-1] for key in corpus} - {"corpus_report"} | set(last))


def _known_methods(methods: Sequence[str]) -> None:
    from hydralora.methods import METHODS

    if unknown := [name for name in methods if name not in METHODS]:
        fail(f"--method: expected rows of hydralora.methods ({', '.join(METHODS)}), got {', '.join(unknown)}")
