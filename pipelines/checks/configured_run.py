"""The assets, configurations and resources of a run, read from its configuration."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from pydantic import ValidationError

from pipelines.checks.problem import MISSING, AnyProblem, Problem, Refusal
from pipelines.store.assets import CONFIG_CLASSES
from pipelines.store.configuration import limits_of, limits_text
from pipelines.study.experiments import EXPERIMENTS, planned_cells
from pipelines.training.losses import BASE

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "missing": "a value",
}


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
        wrong = list(_outside_limits(cls, values, where))
        resource, refused = _read_config(cls, values, where)
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
        config, wrong = _read_config(CONFIG_CLASSES[asset], values, f"ops.{asset}.config")
        problems += wrong
        if config is not None:
            configs[asset] = config
    return configs, problems


def _read_config(
    cls: type[dg.Config], values: Mapping[str, Any], field: str
) -> tuple[dg.Config | None, list[AnyProblem]]:
    """The configuration of an asset, or what is wrong with it.

    Args:
        field: path of `values` in the YAML.
    """
    try:
        return cls(**values), []
    except dg.Failure as refused:  # raised by a validator: two sources have the same name
        name = next((name for name in ("evaluation_sets", "sources") if name in cls.model_fields), "")
        return None, [Refusal(f"{field}.{name}", str(refused.description).removeprefix("sources: "))]
    except ValidationError as error:
        return None, [_problem(details, field) for details in error.errors(include_url=False)]


def _outside_limits(cls: type[dg.ConfigurableResource], values: Mapping[str, Any], field: str) -> Iterator[AnyProblem]:
    """Values of a resource outside the limits of its fields."""
    for name, value in values.items():
        info = cls.model_fields.get(name)
        limits = {} if info is None else limits_of(info)
        items = value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]
        for item in items:
            if isinstance(item, int | float) and not isinstance(item, bool) and not _within(item, limits):
                yield Problem(f"{field}.{name}", limits_text(limits) or "a finite number", value)
                break


def _within(value: float, limits: Mapping[str, float]) -> bool:
    return math.isfinite(value) and all(
        {"ge": value >= limit, "gt": value > limit, "le": value <= limit, "lt": value < limit}[name]
        for name, limit in limits.items()
    )


def _dotted(field: str, parts: tuple[Any, ...]) -> str:
    """Append parts to a path: names after a dot, list indices in brackets."""
    for part in parts:
        field += f"[{part}]" if isinstance(part, int) else f".{part}"
    return field


def _problem(details: Any, field: str) -> AnyProblem:
    path, kind, got = _dotted(field, details["loc"]), details["type"], details["input"]
    context = details.get("ctx", {})
    limits = {name: context[name] for name in ("ge", "gt", "le", "lt") if name in context}
    if kind == "extra_forbidden":
        return Problem(path, "no field of this name", got, "Remove it, or correct its name.")
    if kind == "value_error":
        return Refusal(path, f"{context['error']}.")
    if kind == "literal_error":
        return Problem(path, f"one of {context['expected'].replace(' or ', ', ')}", got)
    if kind in ("too_short", "string_too_short"):
        return Problem(path, f"at least {context['min_length']} entry" if kind == "too_short" else "text", got)
    expected = limits_text(limits) or _EXPECTED.get(kind) or details["msg"]
    return Problem(path, expected, MISSING if kind == "missing" else got)
