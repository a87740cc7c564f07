"""Old public names: they keep working for one minor version after a rename, with a DeprecationWarning."""

import dataclasses
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar, cast

_F = TypeVar("_F", bound=Callable[..., Any])


def renamed(old: str, new: str, value: Any) -> Any:
    """Return the value and warn that its old name is deprecated."""
    warnings.warn(f"{old} is now {new}; version 0.3 removes the old name.", DeprecationWarning, stacklevel=3)
    return value


def called(old: str, new: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function under its old name; it warns when it is called, not when it is imported."""

    @functools.wraps(function)
    def deprecated(*arguments: Any, **options: Any) -> Any:
        return renamed(old, new, function)(*arguments, **options)

    return deprecated


def takes_options(kind: type) -> Callable[[_F], _F]:
    """Let a function with the keyword `options` also take the fields of `options` as keywords, as it did before 0.2."""
    names = {field.name for field in dataclasses.fields(kind)}

    def decorate(function: _F) -> _F:
        @functools.wraps(function)
        def with_options(*arguments: Any, **keywords: Any) -> Any:
            earlier = {name: keywords.pop(name) for name in names & keywords.keys()}
            if earlier:
                options = dataclasses.replace(keywords.get("options", kind()), **earlier)
                keywords["options"] = renamed(", ".join(sorted(earlier)), f"options={kind.__name__}(...)", options)
            return function(*arguments, **keywords)

        return cast(_F, with_options)

    return decorate


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports modules by their old names.

    Args:
        moved: Old dotted name -> new dotted name.
    """

    def __init__(self, moved: Mapping[str, str]) -> None:
        self.moved = moved
        self._specs: dict[str, importlib.machinery.ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module by its old name. Python calls this for modules that the other finders did not find."""
        return importlib.util.spec_from_loader(fullname, self) if fullname in self.moved else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Import the module under its new name and return it."""
        module = importlib.import_module(self.moved[spec.name])
        self._specs[spec.name] = module.__spec__
        renamed(spec.name, self.moved[spec.name], None)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's spec; the module has already run under its new name."""
        assert module.__spec__ is not None
        module.__spec__ = self._specs[module.__spec__.name]

    def install(self) -> None:
        """Append this finder to `sys.meta_path`, so that Python asks it last."""
        sys.meta_path.append(self)


def install() -> None:
    """Install the finder for the old names of this package's modules, once."""
    if any(isinstance(finder, MovedModules) and finder.moved is MOVED for finder in sys.meta_path):
        return
    MovedModules(MOVED).install()


MOVED = {
    "hydralora.adalora": "hydralora.training.adalora",
    "hydralora.answer_loss": "hydralora.evaluation.answer_loss",
    "hydralora.batching": "hydralora.data.batching",
    "hydralora.calibration": "hydralora.gates.calibration",
    "hydralora.callbacks": "hydralora.training.callbacks",
    "hydralora.config": "hydralora.adapter.config",
    "hydralora.energy": "hydralora.training.outputs.energy",
    "hydralora.export": "hydralora.gates.export",
    "hydralora.launch": "hydralora.training.run",
    "hydralora.layer": "hydralora.adapter.layer",
    "hydralora.linear": "hydralora.adapter.linear",
    "hydralora.lorahub": "hydralora.training.lorahub_search",
    "hydralora.lorahub_training": "hydralora.training.lorahub",
    "hydralora.model": "hydralora.adapter.model",
    "hydralora.model_card": "hydralora.training.outputs.model_card",
    "hydralora.ops.small": "hydralora.ops.torch_kernels",
    "hydralora.ops.triton_pieces": "hydralora.ops.triton_launch",
    "hydralora.parameters": "hydralora.methods.parameters",
    "hydralora.registration": "hydralora.adapter.registration",
    "hydralora.routing": "hydralora.gates.recording",
    "hydralora.routing_losses": "hydralora.gates.losses",
    "hydralora.run_record": "hydralora.training.outputs.record",
    "hydralora.sequence_gates": "hydralora.adapter.given_gates",
    "hydralora.static_routing": "hydralora.gates.fixed",
    "hydralora.surgery": "hydralora.gates.surgery",
    "hydralora.trainer": "hydralora.training.trainer",
    "hydralora.training.checkpoints": "hydralora.training.outputs.checkpoints",
    "hydralora.training.energy": "hydralora.training.outputs.energy",
    "hydralora.training.model_card": "hydralora.training.outputs.model_card",
    "hydralora.training.record": "hydralora.training.outputs.record",
}
