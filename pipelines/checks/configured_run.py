"""The assets, configurations and resources of a run, read from its configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from pipelines.checks.limits import check_limits, read_config
from pipelines.checks.problem import AnyProblem
from pipelines.store.assets import CONFIG_CLASSES
from pipelines.study.experiments import EXPERIMENTS, planned_cells
from pipelines.training.losses import BASE


@dataclass(frozen=True)
class ConfiguredRun:
    """The input of all checks.

    Attributes:
        assets: names of the assets that the run makes.
        inputs: names of the assets that it reads but does not make.
        configs: asset -> its configuration. Invalid ones are left out.
        resources: name -> resource, for those that the assets use. Invalid ones are left out.
        partition: key of the run's partition.
        unreliable: fields with a known problem; checks that depend on them are skipped.
    """

    assets: frozenset[str]
    inputs: frozenset[str]
    configs: Mapping[str, Any]
    resources: Mapping[str, Any]
    partition: str | None = None
    unreliable: frozenset[str] = field(default_factory=frozenset)

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return "recipe" in self.resources


def configured_run(
    job: dg.JobDefinition, resolved: Mapping[str, Any], partition: str | None = None
) -> tuple[ConfiguredRun, list[AnyProblem]]:
    """Read the run, and list the values that are out of range.

    Args:
        resolved: the configuration with all defaults, as `dagster.validate_run_config` returns it.
    """
    nodes = [job.asset_layer.get(key) for key in job.asset_layer.executable_asset_keys]
    assets = frozenset(node.key.path[-1] for node in nodes)
    inputs = frozenset(key.path[-1] for node in nodes for key in node.parent_keys) - assets
    configs, problems = _configs(assets, resolved["ops"])
    used = {name for node in nodes for name in node.assets_def.required_resource_keys}
    resources: dict[str, Any] = {}
    for name in sorted(used):
        cls = getattr(job.resource_defs[name], "configurable_resource_cls", None)
        values = (resolved["resources"].get(name) or {}).get("config") or {}
        if cls is None:
            continue
        where = f"resources.{name}.config"
        wrong = list(check_limits(cls, values, where))
        resource, refused = read_config(cls, values, where)
        problems += [*wrong, *refused]
        if resource is not None:
            resources[name] = resource
    fields = frozenset(problem.field for problem in problems)
    return ConfiguredRun(assets, inputs, configs, resources, partition, fields), problems


def trained_methods(run: ConfiguredRun) -> dict[str, list[str]]:
    """The methods that a run trains, by the configuration field that names them."""
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


def _configs(assets: frozenset[str], ops: Mapping[str, Any]) -> tuple[dict[str, Any], list[AnyProblem]]:
    configs: dict[str, Any] = {}
    problems: list[AnyProblem] = []
    for asset in sorted(assets & CONFIG_CLASSES.keys()):
        values = (ops.get(asset) or {}).get("config") or {}
        config, wrong = read_config(CONFIG_CLASSES[asset], values, f"ops.{asset}.config")
        problems += wrong
        if config is not None:
            configs[asset] = config
    return configs, problems
