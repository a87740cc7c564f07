"""Old names of this package's modules: they can still be imported, with a DeprecationWarning."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

MOVED = {
    "adalora": "training.adalora",
    "answer_loss": "evaluation.answer_loss",
    "batching": "data.batching",
    "calibration": "gates.calibration",
    "callbacks": "training.callbacks",
    "config": "adapter.config",
    "energy": "training.outputs.energy",
    "export": "gates.export",
    "launch": "training.run",
    "layer": "adapter.layer",
    "linear": "adapter.linear",
    "lorahub": "training.lorahub_search",
    "lorahub_training": "training.lorahub",
    "model": "adapter.model",
    "model_card": "training.outputs.model_card",
    "ops.small": "ops.torch_kernels",
    "ops.triton_pieces": "ops.triton_launch",
    "parameters": "methods.parameters",
    "registration": "adapter.registration",
    "routing": "gates.recording",
    "routing_losses": "gates.losses",
    "run_record": "training.outputs.record",
    "sequence_gates": "adapter.given_gates",
    "static_routing": "gates.fixed",
    "surgery": "gates.surgery",
    "trainer": "training.trainer",
    "training.checkpoints": "training.outputs.checkpoints",
    "training.energy": "training.outputs.energy",
    "training.model_card": "training.outputs.model_card",
    "training.record": "training.outputs.record",
}


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a module of this package that is asked for by an old name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module by its old name. Python calls this for modules that the other finders did not find."""
        package, _, name = fullname.partition(".")
        new = MOVED.get(name) if package == __package__ else None
        return importlib.util.spec_from_loader(fullname, self, origin=f"{package}.{new}") if new else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Import the module under its new name and return it."""
        assert spec.origin is not None
        warnings.warn(f"{spec.name} is now {spec.origin}.", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(spec.origin)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back; it has already run under its new name."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Append the finder to `sys.meta_path`, so that Python asks it last."""
    sys.meta_path.append(MovedModules())
