"""The commands that a report shows: how to reproduce it, and what to do next."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
import yaml

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.io_manager import ArtifactStore
from pipelines.store.run_values import JOB_TAG, configuration_of, without_how

if TYPE_CHECKING:
    from analysis.report import NextStep
    from analysis.report.budget import Spent

FILE_TAG = "hydralora/configuration"
"""Run tag with the configuration file that `hydralora run` was given."""
CONFIGURATION, COMPARISON = "configuration.yaml", "compare.yaml"
"""Files beside the report: the configuration that ran, and one that compares the methods with enough budget."""
OF_A_COMPARISON = (
    *("raw_documents", "corpus_documents", "document_features", "cluster_sweep", "num_clusters", "cluster_labels"),
    *("expert_assignment", "tokenised_documents"),
)
"""Assets that the jobs `hydralora` and `compare` share."""


@dataclass(frozen=True)
class Request:
    """The request behind the run that makes a report.

    Attributes:
        values: its run configuration, without what changes no result.
        file: the file that the configuration came from; None if it is not known, as in the web UI.
        folder: folder of the report, below the store's path in the configuration.
    """

    job: str
    values: Mapping[str, Any]
    file: str | None
    folder: str

    @property
    def text(self) -> str:
        """The configuration as YAML."""
        return _yaml(self.values)

    @property
    def command(self) -> str:
        """The command that runs the same again."""
        return _run(self.file or f"{self.folder}/{CONFIGURATION}", self.job)


def identity_of(context: dg.AssetExecutionContext) -> dict[str, Any]:
    """The request of a run as values of the report's fingerprint."""
    return {
        "run_config": without_how(configuration_of(context.run, context.job_def)),
        "job": context.run.tags.get(JOB_TAG, context.run.job_name),
        "file": context.run.tags.get(FILE_TAG),
    }


def request_of(context: dg.AssetExecutionContext, store: ArtifactStore, report: Draft) -> Request:
    """The request of the run that makes a report."""
    said = identity_of(context)
    folder = f"{store.directory}/{report.asset}/{report.fingerprint}"
    return Request(said["job"], said["run_config"], said["file"], folder)


def comparison_of(request: Request, methods: list[str], seeds: int, max_tokens: int) -> str | None:
    """A configuration of the job `compare` on the same corpus, as YAML; None if this run did not read the corpus.

    Args:
        methods: methods to compare; the last one is the reference.
    """
    ops = request.values.get("ops", {})
    if "raw_documents" not in ops:
        return None
    resources = {name: dict(value) for name, value in request.values.get("resources", {}).items()}
    recipe = dict(resources.get("recipe", {}).get("config", {}))
    resources["recipe"] = {"config": {**recipe, "max_tokens": max(max_tokens, recipe.get("max_tokens") or 0)}}
    shared = {name: ops[name] for name in OF_A_COMPARISON if name in ops}
    comparison = {"methods": methods, "reference": methods[-1], "seeds": list(range(seeds))}
    return _yaml({"resources": resources, "ops": {**shared, "method_comparison": {"config": comparison}}})


def tokens_for(spent: "Spent") -> int:
    """Training tokens for the smallest number of steps with a verdict, at this run's tokens per step."""
    from analysis.report.budget import LEAST_STEPS

    if not spent.steps or not spent.tokens:
        return 1
    per_step = spent.tokens / spent.steps
    return max(spent.tokens, round(1.05 * per_step * LEAST_STEPS))


def next_steps(request: Request, spent: "Spent", comparison: str | None, exports: Artifact) -> "list[NextStep]":
    """The next steps after reading the report.

    Args:
        comparison: text of `compare.yaml`; None if there is none.
    """
    from analysis.report import NextStep
    from analysis.report.budget import LEAST_SEEDS

    folder = f"{request.folder.rpartition('/report/')[0]}/{exports.asset}/{exports.fingerprint}"
    serve = f"hydralora serve {shlex.quote(folder)} --backend http://localhost:8000"
    steps = [
        NextStep("Serve the experts", serve, "Reads the domain off each prompt and names its LoRA to a vLLM server.")
    ]
    if comparison is not None and spent.shortfalls:
        reason = f"{LEAST_SEEDS} seeds of each method and {tokens_for(spent):,} tokens each, on the same corpus."
        command = _run(f"{request.folder}/{COMPARISON}", "compare")
        steps.insert(0, NextStep("Spend enough for a verdict", command, reason))
    return steps


def _run(file: str, job: str) -> str:
    chosen = "" if job == "hydralora" else f" --job {job}"
    return f"hydralora run {shlex.quote(file)}{chosen}"


def _yaml(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=110)
