"""A training in a process of its own, alone or one of torchrun's, that tells Dagster how it goes.

    python -m pipelines.training.training_process --config process/training.json

`pipelines.training.launcher` starts it and describes the run (see `hydralora.training.run`). It imports no Dagster but
the small package of Dagster Pipes, over which loss and speed reach the log of the asset.
"""

import argparse
import os
import sys
import threading
import traceback
from pathlib import Path

ERROR = "error.txt"


def main() -> None:
    """Entry of `python -m pipelines.training.training_process`. A failure leaves its text beside the description."""
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
    from hydralora.training.run import run_from_json
    from pipelines.training.progress import progress_events

    if os.environ.get("RANK", "0") != "0":
        run_from_json(path)
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        run_from_json(path, progress_events(pipes.log.info, pipes.extras["label"]))


def _leave_error(path: Path, error: Exception) -> None:
    """The first of several processes to fail is the one that knows why."""
    from hydralora.base_model import BaseModelError
    from hydralora.data import DataError
    from hydralora.methods import MethodError
    from hydralora.training import TrainingError

    explained = isinstance(error, BaseModelError | DataError | MethodError | TrainingError)
    try:
        with path.open("x") as file:
            file.write(str(error) if explained else "".join(traceback.format_exception(error)))
    except FileExistsError:
        pass


def _end_with_parent() -> None:
    """The launcher holds the other end of stdin and never writes: it is closed when the launcher is gone, killed too.

    A training that goes on alone would write into a folder that the next run of the asset takes over.
    """
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
