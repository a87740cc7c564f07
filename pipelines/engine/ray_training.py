"""Trains on a Ray cluster: Ray's `TorchTrainer` starts the processes that torchrun would start.

    python -m pipelines.engine.ray_training --config training.json --workers 2 --address auto

`training.json` and the results are those of `hydralora.training.run`. The file's paths must be readable, and its folder
writable, on every machine of the cluster. Each worker takes a GPU if the cluster has GPUs.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from analysis.engine.tasks import ATTEMPTS
from pipelines.engine.ray_engine import connected

FOLDER = "ray"
"""Temporary folder beside the results, with the description, Ray's files, and the error of a worker."""


class RayTrainingError(RuntimeError):
    """A training on a Ray cluster cannot start, or failed."""


def main() -> None:
    """Entry of `python -m pipelines.engine.ray_training`."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.engine.ray_training", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON file that describes the run")
    parser.add_argument("--workers", type=int, required=True, help="processes that train together")
    parser.add_argument("--address", help="`auto` or `host:port` of a running cluster; default: Ray on this machine")
    given = parser.parse_args()
    with connected(given.address):
        train_on_ray(given.config, given.workers)


def train_on_ray(config: Path, workers: int) -> dict[str, Any]:
    """Run a training on the cluster that this process is connected to.

    If a worker or its machine dies, all workers start again and go on from the last checkpoint. If this process dies,
    call it again.

    Args:
        config: JSON file that describes the run; see `hydralora.training.run`.
        workers: Processes that train together, with a CPU each, and a GPU each if the cluster has GPUs.

    Returns:
        The record of the run, as in `run.json`.

    Raises:
        ValueError: the description has missing or unknown fields.
        RayTrainingError: the cluster is too small; the training raised an error; or workers died too often.
    """
    import ray
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from hydralora.training.run import read_description

    values = _with_absolute_paths(read_description(config))
    there = ray.cluster_resources()
    kind = "GPU" if there.get("GPU") else "CPU"
    if not 1 <= workers <= there.get(kind, 0):
        raise RayTrainingError(
            f"workers: expected 1 to {int(there.get(kind, 0))}, the {kind}s of the Ray cluster, got {workers}. Start "
            f"more nodes with `ray start`, or ask for fewer workers"
        )
    folder = Path(values["folder"]) / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    description = folder / "training.json"
    description.write_text(json.dumps(values, indent=2) + "\n")
    for attempt in range(ATTEMPTS):
        trainer = TorchTrainer(
            _train,
            train_loop_config={"description": str(description)},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=kind == "GPU"),
            run_config=RunConfig(name=f"try-{attempt}", storage_path=str(folder)),
        )
        try:
            trainer.fit()
            break
        except TrainingFailedError as failure:
            if (error := folder / "error.txt").exists():
                raise RayTrainingError(error.read_text()) from None
            if attempt == ATTEMPTS - 1:
                raise RayTrainingError(f"Workers died in {ATTEMPTS} tries; the last one says:\n{failure}") from failure
    shutil.rmtree(folder)
    return json.loads((folder.parent / "run.json").read_text())


def _train(config: dict[str, str]) -> None:
    """The work of one worker. An error of the training itself is also written to a file: another try would not help."""
    from hydralora.base_model import BaseModelError
    from hydralora.training import TrainingError
    from hydralora.training.run import run_from_json

    description = Path(config["description"])
    try:
        run_from_json(description)
    # DataError and MethodError are ValueErrors.
    except (BaseModelError, TrainingError, FileNotFoundError, ImportError, TypeError, ValueError) as error:
        description.with_name("error.txt").write_text(str(error))
        raise


def _with_absolute_paths(values: dict[str, Any]) -> dict[str, Any]:
    """The description with absolute paths, because a worker has another working folder."""
    paths = {
        name: str(Path(values[name]).resolve()) for name in ("folder", "documents", "held_out") if values.get(name)
    }
    base = dict(values["base_model"])
    if Path(base["name_or_path"]).exists():
        base["name_or_path"] = str(Path(base["name_or_path"]).resolve())
    return {**values, **paths, "base_model": base}


if __name__ == "__main__":
    main()
