"""Which methods a run trains, by the field of the configuration that names them."""

from pipelines.checks.configured_run import ConfiguredRun
from pipelines.study.experiments import EXPERIMENTS, planned_cells
from pipelines.training.losses import BASE

HYDRALORA_METHODS = (
    *("hydralora_sequence", "hydralora_split", "hydralora"),
    *("without_gate", "without_hydra", "lora_moe"),
)
"""Rows of `hydralora.methods` with experts and gates, which the analyses and exports of the main job can read."""


def trained_methods(run: ConfiguredRun) -> dict[str, list[str]]:
    """Field -> its methods."""
    found: dict[str, list[str]] = {}
    if config := run.configs.get("hydralora_adapter"):
        found["ops.hydralora_adapter.config.method"] = [config.method]
    if config := run.configs.get("baseline_adapters"):
        found["ops.baseline_adapters.config.methods"] = config.methods
    if config := run.configs.get("learning_rates"):
        found["ops.learning_rates.config.rates"] = list(config.rates)
    if config := run.configs.get("method_comparison"):
        found["ops.method_comparison.config.methods"] = config.methods
    if config := run.configs.get("study_runs"):
        cells = planned_cells([name for name in config.experiments if name in EXPERIMENTS], config.domains)
        methods = sorted({cell.method for cell in cells if cell.method != BASE})
        found["ops.study_runs.config.experiments"] = methods
    return found
