"""Size and memory of every method on a base model, and whether it fits; computed without loading weights."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from pipelines.store.artifacts import Artifact
from pipelines.study.running.run import Run
from pipelines.study.running.run_documents import TRAINING, read_run_documents
from pipelines.training.losses import BASE
from pipelines.training.recipe import BaseModel, Recipe

if TYPE_CHECKING:
    from hydralora.methods import MethodConfig

GIB = 2**30


def method_sizes(base_model: BaseModel, methods: Sequence[str], settings: "MethodConfig") -> pl.DataFrame:
    """Apply every method to the base model's layers on the meta device, and count parameters.

    Args:
        base_model: base model; only its shapes are read.
        methods: rows of `hydralora.methods`.

    Returns:
        A row for each method: `method, a, b, router, shared_expert, shared_lora, other, n_parameters,
        percent, percent_without_router, state_gib`. `state_gib` is the memory of weights, gradients and Adam's moments,
        without activations: 2 bytes per frozen parameter (0.5 in 4 bits) and 16 bytes per trained parameter.

    Raises:
        hydralora.methods.MethodError: a method does not fit this base model or these settings. ValueError: the number
        of parameters differs from the closed form.
    """
    import torch

    from hydralora.methods import adapt, get_method
    from hydralora.methods.parameters import count_parameters

    skeleton = base_model.skeleton()
    rows = []
    for name in methods:
        method = get_method(name)
        own = replace(settings, match_parameters=matched_parameters(name, base_model, settings))
        counts = method.parameters(skeleton, own)
        with torch.device("meta"):
            counted = count_parameters(adapt(base_model.skeleton(), name, own))
        copies = own.num_experts if method.one_adapter_per_expert else 1
        if counted.total * copies != counts.total:
            raise ValueError(f"{name}: expected {counts.total} parameters, got {counted.total * copies}")
        frozen = 0 if method.factory is None else counts.base
        state = frozen * (0.5 if base_model.load_in_4bit else 2.0) + 16 * counted.total
        shown = {part: value for part, value in asdict(counts).items() if part != "base"}
        percent = {"percent": counts.percent, "percent_without_router": counts.percent_without_router}
        rows.append({"method": name, **shown, "n_parameters": counts.total, **percent, "state_gib": state / GIB})
    return pl.DataFrame(rows)


def checked_sizes(
    documents: Artifact, methods: Sequence[str], n: int, recipe: Recipe, base_model: BaseModel
) -> pl.DataFrame:
    """Sizes of methods with N experts; the plan of the first one gives the steps that schedules need.

    Raises:
        dagster.Failure: a method does not fit; nothing has been trained yet.
    """
    from hydralora.methods import MethodError
    from hydralora.training import plan_run

    try:
        steps = plan_run(read_run_documents(documents, TRAINING), recipe.training_config(methods[0])).num_steps
        return method_sizes(base_model, methods, replace(recipe.method_config(n), total_steps=steps))
    except (MethodError, ValueError) as error:
        raise dg.Failure(f"Nothing was trained. {error}", allow_retries=False) from None


def matched_parameters(method: str, base_model: BaseModel, settings: "MethodConfig") -> int | None:
    """Number of trainable parameters of HydraLoRA, including routers, for "lora_matched". None for other methods."""
    from hydralora.methods import get_method

    if method != "lora_matched":
        return None
    return get_method("hydralora").parameters(base_model.skeleton(), settings).total


def planned_run(
    method: str,
    seed: int,
    rate: float,
    num_experts: int,
    recipe: Recipe,
    base_model: BaseModel,
    max_tokens: int | None = None,
) -> Run:
    """A run with the method's size on this base model. The untrained base model has no rate."""
    if method == BASE:
        return Run(BASE, seed, 0.0, num_experts)
    size = matched_parameters(method, base_model, recipe.method_config(num_experts))
    return Run(method, seed, rate, num_experts, max_tokens, size)
