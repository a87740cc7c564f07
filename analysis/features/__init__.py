"""Documents as vectors. Imports `text`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.features.embeddings import SentenceEmbeddings
    from analysis.features.loading import load_features
    from analysis.features.lsa import TfidfLsa

__all__ = ["SentenceEmbeddings", "TfidfLsa", "load_features"]

_ROOMS = {"SentenceEmbeddings": "embeddings", "TfidfLsa": "lsa", "load_features": "loading"}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        from importlib import import_module

        return getattr(import_module(f"analysis.features.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'analysis.features' has no attribute {name!r}")
