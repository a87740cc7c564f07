"""Old module names: they keep working for one minor version after a rename, with a DeprecationWarning.

`hydralora.deprecation` has the same mechanism: the two packages are installed apart and import nothing of each other.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any


def renamed(old: str, new: str, value: Any) -> Any:
    """A value under its old name, with a warning that names the new one."""
    warnings.warn(f"{old} is now {new}; the old name goes in version 0.3.", DeprecationWarning, stacklevel=3)
    return value


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports modules by their old names.

    Args:
        moved: old dotted name -> new dotted name.
    """

    def __init__(self, moved: Mapping[str, str]) -> None:
        self.moved = moved
        self._specs: dict[str, importlib.machinery.ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Python calls this for module names that it finds no file for."""
        return importlib.util.spec_from_loader(fullname, self) if fullname in self.moved else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The module under its new name."""
        module = importlib.import_module(self.moved[spec.name])
        self._specs[spec.name] = module.__spec__
        renamed(spec.name, self.moved[spec.name], None)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module was already executed under its new name."""
        assert module.__spec__ is not None
        module.__spec__ = self._specs[module.__spec__.name]

    def install(self) -> None:
        """Look here last."""
        sys.meta_path.append(self)


def install() -> None:
    """Make the old names of this package's modules importable."""
    if any(isinstance(finder, MovedModules) and finder.moved is MOVED for finder in sys.meta_path):
        return
    MovedModules(MOVED).install()


MOVED = {
    "analysis._bits": "analysis.text._bits",
    "analysis._kmeans_kernels": "analysis.clusters._kmeans_kernels",
    "analysis._terms": "analysis.text.terms._terms",
    "analysis._tokens": "analysis.text._tokens",
    "analysis.adapter_parts": "analysis.adapters.parts",
    "analysis.assignment": "analysis.clusters.assignment",
    "analysis.association": "analysis.adapters.association",
    "analysis.breakdown": "analysis.adapters.breakdown",
    "analysis.clustering": "analysis.clusters.kmeans",
    "analysis.comparison": "analysis.methods.comparison",
    "analysis.corpus_model": "analysis.clusters.corpus_model",
    "analysis.data_card": "analysis.corpus.data_card",
    "analysis.decontamination": "analysis.corpus.decontamination",
    "analysis.deduplication": "analysis.corpus.deduplication",
    "analysis.document_text": "analysis.corpus.document_text",
    "analysis.documents": "analysis.corpus.documents",
    "analysis.drift": "analysis.clusters.drift",
    "analysis.embeddings": "analysis.features.embeddings",
    "analysis.feature_blocks": "analysis.features.vectoriser",
    "analysis.grouping": "analysis.experts.grouping",
    "analysis.heterogeneity": "analysis.clusters.heterogeneity",
    "analysis.interpretation": "analysis.clusters.interpretation",
    "analysis.language": "analysis.text.language",
    "analysis.normalisation": "analysis.text.normalisation",
    "analysis.observation": "analysis.adapters.observation_two",
    "analysis.paper": "analysis.methods.paper",
    "analysis.paper_tables": "analysis.methods.paper_tables",
    "analysis.permutation": "analysis.adapters.permutation",
    "analysis.projection": "analysis.adapters.projection",
    "analysis.prompt_classifier": "analysis.experts.prompt_classifier",
    "analysis.prompt_gates": "analysis.experts.prompt_gates",
    "analysis.routing": "analysis.adapters.routing",
    "analysis.routing_alarms": "analysis.adapters.alarms",
    "analysis.rules": "analysis.clusters.choice.elbow_rules",
    "analysis.sampling": "analysis.text.sampling",
    "analysis.selection": "analysis.clusters.choice.selection",
    "analysis.shingles": "analysis.text.shingles",
    "analysis.stability": "analysis.clusters.choice.stability",
    "analysis.storage": "analysis.atomic_files",
    "analysis.structure": "analysis.clusters.choice.structure",
    "analysis.subspace": "analysis.adapters.subspace",
    "analysis.term_counts": "analysis.text.terms.term_counts",
    "analysis.text_blocks": "analysis.text.blocks",
    "analysis.tfidf": "analysis.text.terms.tfidf",
}
