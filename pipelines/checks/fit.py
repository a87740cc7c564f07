"""Checks that tokens, layers and methods fit the base model. Only its shapes are loaded."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pipelines.checks.configured_run import ConfiguredRun, trained_methods
from pipelines.checks.problem import AnyProblem, Problem, Refusal, listed, unknown_names
from pipelines.training.recipe import BaseModel, Recipe

RECIPE = "resources.recipe.config"
BASE_MODEL = "resources.base_model.config"
ALL_LINEAR = "all-linear"
ANY_SIZE = 1_000_000
"""Placeholder for the size of a HydraLoRA that is not trained yet."""
MANY_STEPS = 1_000
"""Placeholder for a number of steps that depends on the corpus."""
HYDRALORA_METHODS = (
    *("hydralora_sequence", "hydralora_split", "hydralora"),
    *("without_gate", "without_hydra", "lora_moe"),
)
"""Rows of `hydralora.methods` with experts and gates, which the analyses and exports of the main job can read."""


def fit_problems(run: ConfiguredRun) -> Iterator[AnyProblem]:
    """Check that tokens and methods fit the layers of the base model, without loading its weights."""
    model: BaseModel | None = run.resources.get("base_model")
    methods = trained_methods(run) if run.trains else {}
    tokens = run.configs.get("tokenised_documents")
    if model is None or not (methods or tokens):
        return
    from hydralora.base_model import BaseModelError

    try:
        skeleton = model.skeleton()
        if tokens is not None:
            yield from _tokens(tokens, model, skeleton)
    except BaseModelError as error:
        yield Refusal(f"{BASE_MODEL}.name", str(error))
        return
    if methods:
        wrong = list(_layers(run.resources["recipe"], skeleton))
        wrong += _sizes(run, methods, skeleton) if not wrong else []
        yield from wrong or _methods(run, methods, skeleton)


def _tokens(config: Any, model: BaseModel, skeleton: Any) -> Iterator[AnyProblem]:
    from hydralora.data import DataError, Frame

    field = "ops.tokenised_documents.config"
    longest = getattr(skeleton.config, "max_position_embeddings", None)
    if longest is not None and config.max_length > longest:
        advice = f"{model.name} has no more positions."
        yield Problem(f"{field}.max_length", f"at most {longest:,}", config.max_length, advice)
    try:
        Frame.of(model.tokenizer(), config.template)
    except DataError as error:
        yield Refusal(f"{field}.template", str(error))


def _layers(recipe: Recipe, skeleton: Any) -> Iterator[AnyProblem]:
    """Check that `layers_to_transform` and `target_modules` exist in the base model."""
    n = getattr(skeleton.config, "num_hidden_layers", None)
    beyond = [] if n is None else [layer for layer in recipe.layers_to_transform or [] if layer >= n]
    if n is not None and beyond:
        yield Problem(f"{RECIPE}.layers_to_transform", f"indices of the {n} layers, 0 to {n - 1}", beyond)
    if recipe.target_modules == [ALL_LINEAR]:
        return
    names = [name for name, module in skeleton.named_modules() if name and _has_weight(module)]
    last = dict.fromkeys(name.rpartition(".")[2] for name, module in skeleton.named_modules() if _has_weight(module))
    for target in recipe.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            known = [name for name in last if not name.isdigit()]
            yield from unknown_names(f"{RECIPE}.target_modules", "layer", [target], known)


def _sizes(run: ConfiguredRun, methods: Mapping[str, list[str]], skeleton: Any) -> Iterator[AnyProblem]:
    """Check that experts get linear layers, and that no rank is larger than a layer."""
    import torch

    recipe: Recipe = run.resources["recipe"]
    has_experts = {method for names in methods.values() for method in names} & set(HYDRALORA_METHODS)
    adapted = {
        name: module
        for name, module in skeleton.named_modules()
        if _has_weight(module) and any(name == t or name.endswith(f".{t}") for t in recipe.target_modules)
    }
    for name, module in adapted.items():
        if has_experts and isinstance(module, torch.nn.Embedding):
            got = name.rpartition(".")[2]
            advice = f"It is an embedding, on which {listed(sorted(has_experts))} cannot act."
            yield Problem(f"{RECIPE}.target_modules", "linear layers", got, advice)
    side, name = min(((min(module.weight.shape), name) for name, module in adapted.items()), default=(recipe.r, ""))
    if recipe.r > side:
        advice = f"A rank cannot be larger than the smaller side of a layer, here {name}."
        yield Problem(f"{RECIPE}.r", f"at most {side}", recipe.r, advice)


def _has_weight(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.dim() == 2


def _methods(run: ConfiguredRun, methods: Mapping[str, list[str]], skeleton: Any) -> Iterator[AnyProblem]:
    """Check that every method can be put on the base model, with the number of experts if it is known."""
    from hydralora.methods import METHODS, MethodError

    recipe: Recipe = run.resources["recipe"]
    choice = run.configs.get("num_clusters")
    known = None if choice is None else choice.value
    for field, names in methods.items():
        for name in names:
            falls_back = field.startswith("ops.hydralora_adapter.")  # with one expert it trains a plain LoRA
            n = max(known or 0, METHODS[name].min_experts) if known is None or falls_back else known
            shared = replace(
                recipe.method_config(n), match_parameters=ANY_SIZE, total_steps=recipe.max_steps or MANY_STEPS
            )
            try:
                METHODS[name].config(skeleton, shared)
            except MethodError as error:
                yield Refusal(field, f"{name}: {error}")
    yield from _ratios(run, {name for names in methods.values() for name in names})


def _ratios(run: ConfiguredRun, methods: set[str]) -> Iterator[AnyProblem]:
    """Check that each fragment of `learning_rate_ratios` is in the name of a trained parameter."""
    recipe: Recipe = run.resources["recipe"]
    if not recipe.learning_rate_ratios:
        return
    from hydralora.methods import adapt

    names: set[str] = set()
    for method in sorted(methods):
        shared = replace(recipe.method_config(2), match_parameters=ANY_SIZE, total_steps=MANY_STEPS)
        adapted = adapt(run.resources["base_model"].skeleton(), method, shared)
        names |= {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    kinds = sorted({part for name in names for part in name.split(".") if "lora" in part})
    for fragment in recipe.learning_rate_ratios:
        if not fragment or not any(fragment in name for name in names):
            what = f"a part of the name of a trained parameter, such as {listed(kinds)}"
            yield Problem(f"{RECIPE}.learning_rate_ratios", what, fragment)
