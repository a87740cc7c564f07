"""One training in its own process, or in several torchrun processes. It reports its progress to Dagster.

    python -m pipelines.training.training_process --config process/training.json

`pipelines.training.launcher` starts it and describes the run (see `hydralora.training.run`). Of Dagster it imports only
the small package Dagster Pipes, which sends loss and speed to the asset's log.
"""

import argparse
import os
import sys
import threading
import traceback
from pathlib import Path

ERROR = "error.txt"
MODULE = "pipelines.training.training_process"
VERSION = "HYDRALORA_CODE_VERSION"
"""Environment variable with the code version of `MODULE` in the launcher."""


def main() -> None:
    """Entry point. A failure writes its error text beside the description."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.training.training_process", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON file that describes the run")
    path: Path = parser.parse_args().config
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _run(path)
    except Exception as error:
        traceback.print_exc()
        _leave_error(path.with_name(ERROR), error)
        sys.exit(1)


def _run(path: Path) -> None:
    from pipelines.store.code.versions import check_version

    if expected := os.environ.get(VERSION):
        check_version(MODULE, expected)

    from hydralora.training.run import run_from_json
    from pipelines.training.progress import progress_events

    if os.environ.get("RANK", "0") != "0":
        run_from_json(path)
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        run_from_json(path, progress_events(pipes.log.info, pipes.extras["label"]))


def _leave_error(path: Path, error: Exception) -> None:
    """Write the error of the first process that fails: the others only fail as a consequence."""
    from hydralora.base_model import BaseModelError
    from hydralora.data import DataError
    from hydralora.methods import MethodError
    from hydralora.training import TrainingError
    from pipelines.store.code.source_files import SourceChangedError

    ours = BaseModelError | DataError | MethodError | SourceChangedError | TrainingError
    explained = isinstance(error, ours)
    try:
        with path.open("x") as file:
            file.write(str(error) if explained else "".join(traceback.format_exception(error)))
    except FileExistsError:
        pass


def _end_with_parent() -> None:
    """End this process when the launcher ends. The launcher holds stdin open and never writes to it.

    The operating system closes stdin when the launcher ends for any reason, even if it is killed.

    A training without its launcher would write into a folder that the asset's next run uses.
    """
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
