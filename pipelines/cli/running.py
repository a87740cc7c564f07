"""`hydralora run`, `train` and `compare`: Dagster jobs in this process."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.cli.configurations import checked_experts, checked_methods, has_gpu, job_values
from pipelines.cli.output import checked_folder, columns_of, fail, one_error, print_json

if TYPE_CHECKING:
    import polars as pl

    from pipelines.store.io_manager import ArtifactStore

TRAINED = ("tokenised_documents", "hydralora_adapter")
REPORT_OF = {"hydralora": "report", "train": "report", "corpus": "corpus_report"}
"""Job -> the asset with its report. Other jobs have none."""
LEAST_COMPARED = 50
"""Records of each file that a comparison needs, because a tenth of them is held out to measure on."""


def run_file(path: Path, job: str, partition: str | None, as_json: bool) -> None:
    """Check a configuration, run a job, and print N, the verdict and the path of the report."""
    from pipelines import definitions  # noqa: F401 - it imports all assets, which `for_job` knows then
    from pipelines.check import wrong_values
    from pipelines.jobs import JOBS, for_job
    from pipelines.run_configuration import ConfigurationError, read_configuration

    if job not in (names := [one.name for one in JOBS]):
        fail(f"--job: expected one of {', '.join(names)}, got {job!r}.")
    with one_error(ConfigurationError):
        values = for_job(read_configuration(path), job)
    if wrong := wrong_values(values, job, partition):
        fail(wrong)
    prepare_home()
    _execute(values, job, file=str(path), partition=partition)
    print_results(path, job, as_json)


def print_results(path: Path, job: str, as_json: bool) -> None:
    """N, losses and the report of the last run; of a comparison its table. As JSON, other jobs give their store."""
    from pipelines.store.artifacts import ArtifactError
    from pipelines.store.io_manager import store_of
    from pipelines.summary import corpus_summary, summary

    store = store_of(path)
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


@dataclass(frozen=True)
class Request:
    """The arguments of `train` and `compare`: files, the roles of their columns, and how to train on them."""

    files: Sequence[str]
    columns: Sequence[str]
    experts: str
    out: Path
    base_model: str
    revision: str | None
    tokens: int | None

    def values(self, job: str, ops: Mapping[str, Any]) -> dict[str, Any]:
        """The run configuration of a job, after the files have been read and everything was checked."""
        from pipelines.check import wrong_values

        mapping = columns_of(self.columns)
        checked_folder(self.out)
        with one_error(ValueError, OSError):
            from analysis.answer.named_files import named_sources, read_named

            sources = named_sources(self.files, mapping)
            checked_experts(self.experts, len(sources))
            read = read_named(sources)
            if job == "compare":
                _checked_sizes(read.records)
            values = job_values(
                sources, self.out, self.base_model, self.revision, self.tokens, self.experts, ops, gpu=has_gpu()
            )
        if wrong := wrong_values(values, job):
            fail(wrong)
        return values


def train_files(request: Request, method: str | None, as_json: bool) -> None:
    """Train one adapter: the main job up to `hydralora_adapter`."""
    from pipelines.training.adapters import DEFAULT_METHOD, adapter_config

    method = DEFAULT_METHOD if method is None else method
    _known_methods([method])
    values = request.values("hydralora", {"hydralora_adapter": {"config": {"method": method}}})
    prepare_home()
    _execute(values, "hydralora", _assets(TRAINED))
    from pipelines.store.io_manager import ArtifactStore

    store = ArtifactStore(directory=str(request.out))
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
    compared = checked_methods(methods)
    _known_methods(compared)
    ops = {
        "method_comparison": {"config": {"methods": list(compared), "cost_steps": 0}},
        "comparison_documents": {"config": {"validation_documents_per_source": 0}},  # no rate is tuned
    }
    values = request.values("compare", ops)
    prepare_home()
    _execute(values, "compare")
    from pipelines.store.io_manager import ArtifactStore

    tell_comparison(ArtifactStore(directory=str(request.out)), as_json)


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
    """The table of the last comparison in a store."""
    table = store.last("method_comparison")
    if as_json:
        print_json(table.read("comparison").to_dicts())
        return
    print(table.path("comparison.md").read_text())
    print(f"Table and figure: {table.folder.resolve()}")


def prepare_home() -> None:
    """Make DAGSTER_HOME ready; `.dagster` in the working folder, if it is not set."""
    os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").resolve()))
    from pipelines.home import HomeError, prepare

    with one_error(HomeError, OSError):
        for run_id in prepare(Path(os.environ["DAGSTER_HOME"]).resolve()):
            print(f"Run {run_id} had no living process: reported as failed.", file=sys.stderr)


def _execute(values: dict[str, Any], job: str, assets: Sequence[str] | None = None, **how: str | None) -> None:
    from pipelines.run import run

    if not run(values, job, assets=assets, **how):
        raise SystemExit(1)


def _assets(last: Sequence[str]) -> list[str]:
    """The assets of the job `corpus`, and some after it."""
    from pipelines.definitions import defs

    corpus = defs.resolve_job_def("corpus").asset_layer.executable_asset_keys
    return sorted({key.path[-1] for key in corpus} - {"corpus_report"} | set(last))


def _known_methods(methods: Sequence[str]) -> None:
    from hydralora.methods import METHODS

    if unknown := [name for name in methods if name not in METHODS]:
        fail(f"--method: expected rows of hydralora.methods ({', '.join(METHODS)}), got {', '.join(unknown)}")
