"""Trains any method of the table, or all weights, on documents. Imports all other sub-packages except `harness`."""

from hydralora.training.config import Progress, RunOptions, TrainingConfig, TrainingError, TrainingResult
from hydralora.training.loop import plan_run, train
from hydralora.training.outputs.identity import is_first_process, num_processes, run_identity

__all__ = [
    "Progress",
    "RunOptions",
    "TrainingConfig",
    "TrainingError",
    "TrainingResult",
    "is_first_process",
    "num_processes",
    "plan_run",
    "run_identity",
    "train",
]
