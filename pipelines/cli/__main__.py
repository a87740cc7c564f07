"""The console script `hydralora`, also `python -m pipelines.cli`."""

import os
import sys
import warnings

QUIET = {
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    # Two busy-waiting thread pools on two cores triple the time of training.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Set before a library reads them: no telemetry, no bars and no retries of third parties."""

STOPPED = 130


def main() -> None:
    """Run a command. Ends with 2 for wrong input, 1 for a failed run, 130 when it is stopped."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries; a user can do nothing about them
    try:
        from pipelines.cli.app import app

        app(prog_name="hydralora")
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] in ("analysis", "hydralora", "pipelines"):
            raise
        raise SystemExit(f"hydralora: {missing}. Install it: pip install 'hydralora[pipelines]'") from None
    except (KeyboardInterrupt, RuntimeError, SystemExit) as end:
        if not _is_interrupt(end):
            raise
        print("hydralora: stopped. The same command goes on from what a run has finished.", file=sys.stderr)
        raise SystemExit(STOPPED) from None


def _is_interrupt(end: BaseException) -> bool:
    """Whether Ctrl-C ended the command: typer makes it a code, and a class that is being defined a RuntimeError."""
    if isinstance(end, SystemExit):
        return end.code == STOPPED
    return isinstance(end, KeyboardInterrupt) or isinstance(end.__cause__, KeyboardInterrupt)


if __name__ == "__main__":
    main()
