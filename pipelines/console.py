"""Prints the progress of a run: one line for each stage, and one sentence for each problem."""

import logging
import sys
import time
from collections.abc import Collection
from typing import Any

import dagster as dg

from pipelines.training.progress import duration

_COUNTED = ("dagster/row_count", "num_experts", "steps", "trainable_parameters")
SECONDS = {
    "raw_documents": 1,
    "corpus_documents": 3,
    "document_features": 4,
    "tokenised_documents": 2,
    "cluster_sweep": 4,
    "num_clusters": 1,
    "cluster_labels": 3,
    "cluster_names": 2,
    "expert_assignment": 2,
    "component_adapters": 70,
    "hydralora_adapter": 75,
    "baseline_adapters": 70,
    "method_comparison": 300,
    "domain_exports": 60,
    "routing_analysis": 30,
    "evaluation": 40,
    "parameter_breakdown": 6,
    "report": 15,
}
"""Rough seconds of each stage of a small run on two cores. Only their proportions matter, for the time left."""
STOPPED = "It was stopped, by Ctrl-C or a signal."
_UNTOLD = ("Dependencies for step", "Data version mismatch for asset")
"""Dagster's notes on each step after a failed one, and on another run of the same asset; neither changes a result."""
_WORDS = {"dagster/row_count": "rows", "num_experts": "experts"}


class StageHandler(logging.Handler):
    """Prints Dagster's log events in a few lines. Each process of a run has its own handler."""

    def __init__(self, least: int = logging.INFO, stages: Collection[str] = ()) -> None:
        super().__init__()
        self._least = least
        self._stages, self._finished = frozenset(stages), dict[str, float]()
        self._start = time.monotonic()
        self._shown: dict[str, str] = {}
        self._reused: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, if a person wants to see it."""
        text = self._text(record)
        if text:
            print(text, file=sys.stderr, flush=True)

    def _text(self, record: logging.LogRecord) -> str | None:
        meta: dict[str, Any] = getattr(record, "dagster_meta", {})
        event: dg.DagsterEvent | None = meta.get("dagster_event")
        if event is None:
            message = str(meta.get("orig_message") or record.getMessage())
            return None if message.startswith(_UNTOLD) or record.levelno < self._least else f"  {message}"
        step = event.step_key or ""
        match event.event_type_value:
            case "ASSET_MATERIALIZATION":
                self._shown[step] = _counts(event)
                if _value(event, "reused"):
                    self._reused.add(step)
            case "STEP_SUCCESS":
                return self._finished_stage(step, event.step_success_data.duration_ms / 1000)
            case "ASSET_CHECK_EVALUATION":
                return _warning(event)
            case "STEP_UP_FOR_RETRY":
                return f"{step:<22} is tried again. {failure_text(event.step_retry_data.error)}"
            case "STEP_FAILURE":
                data = event.step_failure_data
                described = data.user_failure_data.description if data.user_failure_data else None
                return f"{step:<22} failed. {described or failure_text(data.error)}"
            case "PIPELINE_FAILURE" if _is_of_no_step(event.job_failure_data):
                return f"The run failed. {failure_text(event.job_failure_data.error)}"
        return None

    def _finished_stage(self, step: str, seconds: float) -> str:
        self._finished[step] = seconds
        parts = [f"{step:<22} {seconds:7.1f} s", self._shown.pop(step, "")]
        if self._stages:
            parts[0] = f"[{len(self._finished):>2}/{len(self._stages)}] {parts[0]}"
            if len(self._finished) < len(self._stages):
                parts.append(self._times())
        return "   ".join(filter(None, parts))

    def _times(self) -> str:
        """The time so far, and the time left once a tenth of the work is done. Reused stages do not count."""
        worked = {step: seconds for step, seconds in self._finished.items() if step not in self._reused}
        done, ahead = (sum(map(_share, steps)) for steps in (worked, self._stages - set(self._finished)))
        left = ""
        if done > ahead / 10:
            left = f", about {duration(sum(worked.values()) * ahead / done)} left"
        return f"{duration(time.monotonic() - self._start)} so far{left}"


def _share(step: str) -> float:
    return SECONDS.get(step, 1.0)


def _is_of_no_step(data: Any) -> bool:
    """Whether the failure belongs to no step. That of a step was printed before."""
    return data.error is not None and data.first_step_failure_event is None


def failure_text(error: Any) -> str:
    """The sentence of a `dagster.Failure`; the stack trace of any other exception."""
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return "No reason is known."
    if error.cls_name == "DagsterExecutionInterruptedError":
        return STOPPED
    if error.cls_name == "Failure":
        return str(error.message).removeprefix("dagster._core.definitions.events.Failure: ").strip()
    return f"This is a bug, or an error that was not foreseen:\n{error.to_string()}"


def _counts(event: dg.DagsterEvent) -> str:
    choice = _value(event, "choice")
    if isinstance(choice, dict):
        low, high = choice["interval"]
        n = choice["num_clusters"]
        found = [f"{n} cluster{'s' * (n != 1)} of 1-{_value(event, 'dagster/row_count')} (interval {low}-{high})"]
    else:
        counted = {name: _value(event, name) for name in _COUNTED}
        found = [
            f"{value:,} {_WORDS.get(name, name.replace('_', ' '))}"
            for name, value in counted.items()
            if isinstance(value, int)
        ]
    return ", ".join([*found, *(["found finished"] if _value(event, "reused") else [])])


def _value(event: dg.DagsterEvent, name: str) -> Any:
    """The value of an asset's metadata; None if it has none of this name."""
    return getattr(event.step_materialization_data.materialization.metadata.get(name), "value", None)


def _warning(event: dg.DagsterEvent) -> str | None:
    check = event.asset_check_evaluation_data
    if check.passed or check.severity != dg.AssetCheckSeverity.WARN:
        return None
    return f"  warning, {check.check_name}: {check.description}"


@dg.logger(
    config_schema={
        "log_level": dg.Field(str, is_required=False, default_value="INFO"),
        "stages": dg.Field([str], is_required=False, default_value=[], description="Stages of the run, to count them."),
        "name": dg.Field(str, is_required=False, default_value="dagster"),
    },
    description="A line for each stage, and a sentence for what went wrong.",
)
def console_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """The logger `console` of run configurations."""
    name, level = context.logger_config["name"], context.logger_config["log_level"].upper()
    logger = logging.Logger(name, level=logging.DEBUG)  # events are logged at DEBUG
    stages = context.logger_config["stages"]
    logger.addHandler(StageHandler(logging.getLevelNamesMapping().get(level, logging.INFO), stages))
    return logger
