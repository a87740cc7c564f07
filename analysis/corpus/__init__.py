"""From records to documents: cleaning, duplicates, leaks. Imports `text` and `sources`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.corpus.cleaning import CleanConfig, CleanedCorpus, clean

__all__ = ["CleanConfig", "CleanedCorpus", "clean"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("analysis.corpus.cleaning"), name)
    raise AttributeError(f"module 'analysis.corpus' has no attribute {name!r}")
