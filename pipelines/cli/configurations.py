"""Run configurations for files that a user names: as text with comments, and as values."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import polars as pl

CPU_TOKENS, GPU_TOKENS = 15_000, 1_000_000
CPU_TOKENS_PER_SECOND = 370
"""Measured with the embedded model and these settings on two cores."""
SWEPT = 20
"""Largest number of clusters that a run tries by default."""
COMPARED = ("hydralora", "lora_matched")
"""Methods that are compared with the default one, if none is named."""

TEMPLATE = """\
# hydralora run {path}
# Everything that is left out has a default; docs/training.md and docs/data.md list it.
execution: {{config: {{in_process: {{}}}}}}
loggers: {{console: {{config: {{log_level: INFO}}}}}}
resources:
  store: {{config: {{directory: {store}}}}}    # everything that the run makes
  base_model: {{config: {base_model}}}    # a folder, or a hub id with its revision
  recipe:
    config:
{recipe}
ops:
  raw_documents:
    config:
      sources:
{sources}
  tokenised_documents: {{config: {{template: {template}, max_length: {max_length}}}}}    # or chat
{experts}  component_adapters: {{config: {{max_tokens: {component_tokens}, parts: 2, other_seeds: [1]}}}}
  evaluation: {{config: {{max_documents_per_source: {evaluated}}}}}
  domain_exports: {{config: {{max_documents_per_domain: {exported}}}}}
  parameter_breakdown: {{config: {{umap: false}}}}
  report: {{config: {{title: {title}, command: {command}}}}}
"""


@dataclass(frozen=True)
class Request:
    """The arguments of `init`, `train` and `compare`.

    Attributes:
        files: files, globs or folders.
        columns: the roles of their columns, `ROLE=NAME`.
        experts: see `expert_ops`.
        out: the configuration that `init` writes; for the other commands the folder of everything that the run makes.
        tokens: budget of each adapter; None chooses by the machine.
    """

    files: Sequence[str]
    columns: Sequence[str]
    experts: str
    out: Path
    base_model: str
    revision: str | None
    tokens: int | None

    def budget(self, *, gpu: bool) -> int:
        """Tokens that each adapter trains on."""
        return self.tokens or (GPU_TOKENS if gpu else CPU_TOKENS)


def configuration_text(request: Request, sources: Mapping[str, Any], *, gpu: bool) -> str:
    """A commented configuration of the main job.

    Args:
        sources: name -> `FilesSource`.
        gpu: whether the machine has a GPU.
    """
    model = base_model_values(request.base_model, request.revision)
    path, budget = request.out, request.budget(gpu=gpu)
    recipe = "".join(
        f"      {name}: {_flow(value)}\n" for name, value in recipe_of(request.base_model, budget, gpu=gpu).items()
    )
    recipe = recipe.replace("\n", "    # tokens that each adapter trains on\n", 1)
    lines = [f"        - {_flow(source_values(name, source))}" for name, source in sources.items()]
    return TEMPLATE.format(
        path=path.name,
        store=_flow(f"outputs/{path.stem}"),
        base_model=_flow(model),
        recipe=recipe.rstrip("\n"),
        sources="\n".join(lines),
        template="plain",
        max_length=1024 if gpu else 256,
        experts="".join(f"  {name}: {_flow(value)}\n" for name, value in expert_ops(request.experts).items()),
        component_tokens=max(budget // 8, 1024),
        evaluated=100 if gpu else 20,
        exported=20 if gpu else 8,
        title=_flow(_title(list(sources))),
        command=_flow(f"hydralora run {path.name}"),
    )


def _title(sources: list[str]) -> str:
    """The names of three sources at most; a name is never cut."""
    more = f" and {len(sources) - 2} more" if len(sources) > 3 else ""
    return ", ".join(sources[:2] if more else sources) + more


def base_model_values(name: str, revision: str | None) -> dict[str, str]:
    """The base model of a run configuration.

    Raises:
        ValueError: the folder does not exist, or a revision is given where none can be.
    """
    from analysis.sources.hub import HUB_ID

    local = name == "embedded" or bool(name and Path(name).is_dir())
    if not local and (not HUB_ID.fullmatch(name) or Path(name).exists()):
        raise ValueError(f"--base-model: expected `embedded`, a folder that exists, or a hub id, got {name!r}")
    if local and revision is not None:
        raise ValueError(f"--revision: expected none with the local model {name}, got {revision!r}")
    return {"name": name} | ({} if revision is None else {"revision": revision})


def recipe_of(base_model: str, tokens: int, *, gpu: bool) -> dict[str, Any]:
    """Settings of the training that fit the machine."""
    recipe: dict[str, Any] = {"max_tokens": tokens, "learning_rate": 0.003 if base_model == "embedded" else 0.0005}
    if gpu:
        return recipe | {"target_modules": ["all-linear"], "tokens_per_step": 8192}
    if base_model == "embedded":
        # Nothing runs backwards below the lowest adapted layer, so the top third costs half.
        modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        recipe |= {"target_modules": modules, "layers_to_transform": list(range(20, 30))}
    else:
        recipe |= {"target_modules": ["all-linear"]}
    return recipe | {"tokens_per_step": 1024, "save_steps": 20}


def source_values(name: str, source: Any) -> dict[str, Any]:
    """The entry of a source in a run configuration, in which a `$` of a path is doubled."""
    files: dict[str, Any] = {"paths": [path.replace("$", "$$") for path in source.paths]}
    if source.columns:
        files["columns"] = dict(source.columns)
    return {"name": name, "read": {"files": files}}


def job_values(request: Request, sources: Mapping[str, Any], ops: Mapping[str, Any], *, gpu: bool) -> dict[str, Any]:
    """The values of a configuration for the commands `train` and `compare`."""
    values: dict[str, Any] = {
        "raw_documents": {"config": {"sources": [source_values(name, one) for name, one in sources.items()]}},
        "tokenised_documents": {"config": {"template": "plain", "max_length": 1024 if gpu else 256}},
        **expert_ops(request.experts),
        **ops,
    }
    return {
        "loggers": {"console": {"config": {"log_level": "INFO"}}},
        "resources": {
            "store": {"config": {"directory": str(request.out)}},
            "base_model": {"config": base_model_values(request.base_model, request.revision)},
            "recipe": {"config": recipe_of(request.base_model, request.budget(gpu=gpu), gpu=gpu)},
        },
        "ops": values,
    }


def has_gpu() -> bool:
    """Whether an NVIDIA GPU is there, without importing torch."""
    return Path("/proc/driver/nvidia/version").exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "0") != ""


def estimate(tokens: int | None, n_adapters: int, base_model: str, *, gpu: bool) -> str:
    """How long the trainings take, if that was measured for this machine and model."""
    if gpu or base_model != "embedded":
        return "No estimate of the time: it was measured for the embedded model on a CPU alone."
    budget = tokens or CPU_TOKENS
    minutes = (n_adapters * budget + 5 * max(budget // 8, 1024)) / CPU_TOKENS_PER_SECOND / 60
    words = f"{minutes:.0f} minutes" if minutes >= 1.5 else "a minute"
    return (
        f"Training takes about {words} on two cores ({CPU_TOKENS_PER_SECOND} tokens/s were "
        "measured there); evaluation and the breakdown come on top."
    )


def _flow(value: Any) -> str:
    """A value in one line of YAML that may stand inside a mapping in braces."""
    text: str = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=1_000_000, allow_unicode=True)
    return text.strip()[1:-1]


def expert_ops(experts: str) -> dict[str, Any]:
    """The part of a run configuration that says who gets an expert.

    Args:
        experts: `auto`, a grouping (`sources`, `tasks`, `clusters`), or a number.

    Raises:
        ValueError: it is none of them.
    """
    from analysis.experts.grouping import GROUPINGS

    if experts in GROUPINGS:
        return {} if experts == "auto" else {"expert_assignment": {"config": {"grouping": experts}}}
    if experts.isascii() and experts.isdecimal() and int(experts) >= 1:
        sweep = {"cluster_sweep": {"config": {"max_clusters": int(experts)}}} if int(experts) > SWEPT else {}
        return {**sweep, "num_clusters": {"config": {"value": int(experts)}}}
    raise ValueError(f"--experts: expected one of {', '.join(GROUPINGS)}, or a number from 1 up, got {experts!r}")


def checked_experts(experts: str, n_sources: int) -> None:
    """Raise what `expert_ops` raises, and a ValueError for `sources` of which there is one."""
    expert_ops(experts)
    if experts == "sources" and n_sources < 2:
        raise ValueError("--experts sources: expected two files or more, got one. Take auto")


def checked_tasks(experts: str, records: "pl.LazyFrame") -> None:
    """Raise a ValueError for `tasks` if no record has one."""
    if experts == "tasks" and records.select("task").drop_nulls().limit(1).collect().is_empty():
        raise ValueError(
            "--experts tasks: expected records with a task, got none. Name its column, and those of the texts: "
            "--column prompt=NAME --column completion=NAME --column task=NAME"
        )


def checked_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """The methods to compare; the matched LoRA is always among them, because the others are compared with it."""
    from pipelines.training.adapters import DEFAULT_METHOD

    return tuple(dict.fromkeys([*(methods or (DEFAULT_METHOD, *COMPARED)), "lora_matched"]))
