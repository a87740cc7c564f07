"""What a run says in the terminal: a line for each stage, a sentence for what went wrong, once."""

import logging
import sys
from typing import Any

import dagster as dg

_COUNTED = ("dagster/row_count", "num_clusters", "num_experts", "steps", "trainable_parameters")
_WORDS = {"dagster/row_count": "rows", "num_clusters": "N =", "num_experts": "experts"}


class StageHandler(logging.Handler):
    """Prints what Dagster logs in few lines. A run may have several: each process of it has its own."""

    def __init__(self, least: int = logging.INFO) -> None:
        super().__init__()
        self._least = least
        self._shown: dict[str, str] = {}

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
            # Dagster tells it of every step after a failed one.
            follows = message.startswith("Dependencies for step")
            return None if follows or record.levelno < self._least else f"  {message}"
        step = event.step_key or ""
        match event.event_type_value:
            case "ASSET_MATERIALIZATION":
                self._shown[step] = _counts(event)
            case "STEP_SUCCESS":
                seconds = event.step_success_data.duration_ms / 1000
                return f"{step:<22} {seconds:7.1f} s   {self._shown.pop(step, '')}".rstrip()
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


def _is_of_no_step(data: Any) -> bool:
    """A failed step has been told already."""
    return data.error is not None and data.first_step_failure_event is None


def failure_text(error: Any) -> str:
    """The sentence of a `dagster.Failure`; of any other exception its stack trace, which whoever mends it needs."""
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return "No reason is known."
    if error.cls_name == "Failure":
        return str(error.message).removeprefix("dagster._core.definitions.events.Failure: ").strip()
    return f"This is a bug, or an error that nobody thought of:\n{error.to_string()}"


def _counts(event: dg.DagsterEvent) -> str:
    metadata = event.step_materialization_data.materialization.metadata
    found = []
    for name in _COUNTED:
        value = getattr(metadata.get(name), "value", None)
        if isinstance(value, int):
            word = _WORDS.get(name, name.replace("_", " "))
            found.append(f"{word} {value}" if word.endswith("=") else f"{value:,} {word}")
    reused = getattr(metadata.get("reused"), "value", False)
    return ", ".join([*found, *(["found finished"] if reused else [])])


def _warning(event: dg.DagsterEvent) -> str | None:
    check = event.asset_check_evaluation_data
    if check.passed or check.severity != dg.AssetCheckSeverity.WARN:
        return None
    return f"  warning, {check.check_name}: {check.description}"


@dg.logger(
    config_schema={
        "log_level": dg.Field(str, is_required=False, default_value="INFO"),
        "name": dg.Field(str, is_required=False, default_value="dagster"),
    },
    description="A line for each stage, and a sentence for what went wrong.",
)
def console_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """The logger `console` of run configurations."""
    name, level = context.logger_config["name"], context.logger_config["log_level"].upper()
    logger = logging.Logger(name, level=logging.DEBUG)  # events are logged at DEBUG
    logger.addHandler(StageHandler(logging.getLevelNamesMapping().get(level, logging.INFO)))
    return logger
