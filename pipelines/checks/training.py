"""Checks of the base model, the recipe, the launcher, and the methods that a run trains."""

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipelines.checks.configured_run import ConfiguredRun, trained_methods
from pipelines.checks.fit import ALL_LINEAR, BASE_MODEL, HYDRALORA_METHODS, RECIPE, fit_problems
from pipelines.checks.problem import AnyProblem, Problem, listed, unknown_names
from pipelines.corpus.sources import PackagesConfig
from pipelines.store.configuration import LARGEST_SEED
from pipelines.training.recipe import BaseModel, Recipe

LAUNCHER = "resources.launcher.config"
BUDGETS = ("max_tokens", "max_steps", "num_train_epochs")


def problems(run: ConfiguredRun) -> Iterator[AnyProblem]:
    """Problems of all that trains or loads the base model; imports torch only if something does."""
    wrong = [*_base_model(run), *_recipe(run), *_launcher(run), *_adapters(run)]
    if run.trains:
        wrong += _names(run)
    yield from wrong
    if not wrong and not any(field.startswith("resources.") for field in run.unreliable):
        yield from fit_problems(run)


def _base_model(run: ConfiguredRun) -> Iterator[AnyProblem]:
    model: BaseModel | None = run.resources.get("base_model")
    if model is None:
        return
    if not model.name.strip():
        yield Problem(f"{BASE_MODEL}.name", "embedded, a folder, or an id on the hub", model.name)
    if model.revision is not None and (model.name == "embedded" or Path(model.name).is_dir()):
        advice = "A revision is a commit on the hub: leave it out."
        yield Problem(f"{BASE_MODEL}.revision", f"none with the model {model.name}", model.revision, advice)
    elif model.revision is not None and not model.revision.strip():
        yield Problem(f"{BASE_MODEL}.revision", "a commit of the hub, or nothing", model.revision)
    if model.load_in_4bit and importlib.util.find_spec("bitsandbytes") is None:
        advice = "Install it: pip install 'hydralora[four-bit]'. Or set load_in_4bit: false."
        yield Problem(f"{BASE_MODEL}.load_in_4bit", "bitsandbytes for 4 bits", "no such package", advice)


def _recipe(run: ConfiguredRun) -> Iterator[AnyProblem]:
    recipe: Recipe | None = run.resources.get("recipe")
    if recipe is None:
        return
    given = {name: getattr(recipe, name) for name in BUDGETS if getattr(recipe, name) is not None}
    if len(given) != 1:
        advice = "All methods of a run share one budget. " + ("Remove the others." if given else "Set one of them.")
        yield Problem(RECIPE, f"exactly one of {listed(BUDGETS)}", given or "none of them", advice)
    yield from _targets(recipe)
    yield from _mixing(run, recipe)
    if 0 < recipe.tokens_per_step < recipe.gradient_accumulation_steps:
        advice = "A step is divided into so many parts, each of which needs a token."
        field = f"{RECIPE}.gradient_accumulation_steps"
        what = f"at most tokens_per_step ({recipe.tokens_per_step:,})"
        yield Problem(field, what, recipe.gradient_accumulation_steps, advice)
    trackers: list[str] = recipe.report_to
    if twice := [name for name, count in Counter(trackers).items() if count > 1]:
        yield Problem(f"{RECIPE}.report_to", "each tracker once", twice[0])
    for name in dict.fromkeys(trackers):
        if not name.strip() or importlib.util.find_spec(name.partition(".")[0] or "-") is None:
            advice = f"Install it (pip install {name}), or leave it out." if name.strip() else "Leave it out."
            yield Problem(f"{RECIPE}.report_to", "trackers that are installed", name, advice)


def _targets(recipe: Recipe) -> Iterator[AnyProblem]:
    field, targets, layers = f"{RECIPE}.target_modules", recipe.target_modules, recipe.layers_to_transform
    if not targets or not all(target.strip() for target in targets):
        yield Problem(field, "names of layers", targets, f"Name some, such as q_proj, or take [{ALL_LINEAR}].")
    if len(set(targets)) < len(targets):
        yield Problem(field, "each layer once", targets)
    if ALL_LINEAR in targets and len(targets) > 1:
        yield Problem(field, f"{ALL_LINEAR} alone, or names of layers", targets)
    field = f"{RECIPE}.layers_to_transform"
    if layers is None:
        return
    if not layers or len(set(layers)) < len(layers):
        yield Problem(field, "different indices of layers", layers, "Leave it out to adapt all layers.")
    if ALL_LINEAR in targets:
        advice = "Name the layers under target_modules, or leave layers_to_transform out."
        yield Problem(field, f"nothing with target_modules: [{ALL_LINEAR}]", layers, advice)


def _mixing(run: ConfiguredRun, recipe: Recipe) -> Iterator[AnyProblem]:
    """Check that mixing weights name sources of the run."""
    raw = run.configs.get("raw_documents")
    if raw is not None and not any(isinstance(source.read, PackagesConfig) for source in raw.sources):
        names = [source.name for source in raw.sources]
        yield from unknown_names(f"{RECIPE}.mixing_weights", "source", list(recipe.mixing_weights), names)
    mixed = recipe.mixing_temperature != 1 or recipe.mixing_weights or recipe.mixing_cap < 1
    for field, methods in trained_methods(run).items():
        if mixed and "lorahub" in methods:
            advice = "It trains a LoRA for each cluster and does not mix sources. Leave it out, or the mixing."
            yield Problem(field, "methods other than lorahub with a mixing of sources", "lorahub", advice)


def _launcher(run: ConfiguredRun) -> Iterator[AnyProblem]:
    launcher = run.resources.get("launcher")
    if launcher is None:
        return
    processes, field = launcher.processes_per_training, f"{LAUNCHER}.processes_per_training"
    if launcher.fsdp and processes == 1:
        advice = "One process has nothing to split. Set one for each GPU, or fsdp: false."
        yield Problem(field, "at least 2 with fsdp: true", processes, advice)
    if launcher.engine == "ray" and not launcher.address.strip():
        yield Problem(f"{LAUNCHER}.address", "auto, or host:port of the cluster's head", launcher.address)
    if launcher.engine == "ray" and launcher.parallel > 1:
        advice = "The cluster decides how many run at a time: leave it out."
        yield Problem(f"{LAUNCHER}.parallel", "1 with engine: ray", launcher.parallel, advice)
    model = run.resources.get("base_model")
    if launcher.fsdp and model is not None and model.load_in_4bit:
        advice = "A model in 4 bits is not split: leave one of them out."
        yield Problem(f"{LAUNCHER}.fsdp", "false with load_in_4bit: true", True, advice)
    if processes > 1 and launcher.engine == "local":
        import torch

        if torch.cuda.is_available() and torch.cuda.device_count() < processes:
            yield Problem(field, f"at most the {torch.cuda.device_count()} GPUs of this machine", processes)
        elif not torch.cuda.is_available() and (os.cpu_count() or 1) < processes:
            yield Problem(field, f"at most the {os.cpu_count()} cores of this machine, which has no GPU", processes)


def _adapters(run: ConfiguredRun) -> Iterator[AnyProblem]:
    """Check the methods and seeds of the main job."""
    hydra, baselines = run.configs.get("hydralora_adapter"), run.configs.get("baseline_adapters")
    if baselines is not None:
        field = "ops.baseline_adapters.config.methods"
        if not baselines.methods:
            yield Problem(
                field, "at least one method to compare with", [], "lora_matched is as large as the HydraLoRA."
            )
        if hydra is not None and hydra.method in baselines.methods:
            advice = "The HydraLoRA would be compared with itself. Leave it out."
            yield Problem(field, f"other methods than hydralora_adapter's {hydra.method}", baselines.methods, advice)
    components, recipe = run.configs.get("component_adapters"), run.resources.get("recipe")
    if components is not None and recipe is not None:
        seeds = [recipe.seed, *components.other_seeds]
        if len(set(seeds)) < len(seeds) or not all(0 <= seed <= LARGEST_SEED for seed in components.other_seeds):
            what = f"different seeds from 0 to {LARGEST_SEED:,}, and not the recipe's ({recipe.seed})"
            yield Problem("ops.component_adapters.config.other_seeds", what, components.other_seeds)


def _names(run: ConfiguredRun) -> Iterator[AnyProblem]:
    """Check the names of methods and trackers."""
    from hydralora.methods import METHODS

    for field, methods in trained_methods(run).items():
        yield from unknown_names(field, "method", methods, METHODS)
    recipe: Recipe = run.resources["recipe"]
    yield from unknown_names(f"{RECIPE}.learning_rates", "method", list(recipe.learning_rates), METHODS)
    yield from _untrained(run, recipe)
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    yield from unknown_names(f"{RECIPE}.report_to", "tracker", recipe.report_to, INTEGRATION_TO_CALLBACK)
    hydra = run.configs.get("hydralora_adapter")
    if hydra is not None and hydra.method in METHODS and hydra.method not in HYDRALORA_METHODS:
        advice = "Others belong under ops.baseline_adapters.config.methods."
        field = "ops.hydralora_adapter.config.method"
        yield Problem(field, f"a method with experts, one of {listed(HYDRALORA_METHODS)}", hydra.method, advice)


def _untrained(run: ConfiguredRun, recipe: Recipe) -> Iterator[AnyProblem]:
    """Check that learning rates belong to methods that the run trains."""
    from hydralora.methods import METHODS

    trained = {method for methods in trained_methods(run).values() for method in methods}
    if "component_adapters" in run.configs:
        trained |= {"lora_r8", "without_moe"}  # component adapters, and HydraLoRA with one expert
    for method in recipe.learning_rates:
        if trained and method in METHODS and method not in trained:
            what = f"methods that this run trains ({listed(sorted(trained))})"
            yield Problem(f"{RECIPE}.learning_rates", what, method, "Leave it out, or train it.")
