"""Checks of what cleaning left of each source."""

from collections.abc import Mapping
from typing import Any

from analysis.corpus.data_card import halved_sources, vanished_sources
from pipelines.store.assets import Check


def source_checks(card: Mapping[str, Any]) -> list[Check]:
    """Checks of a data card: whether something, and whether most, is left of every source."""
    vanished, halved = vanished_sources(card), halved_sources(card)
    return [
        Check(
            "no_source_vanished",
            not vanished,
            ". ".join(vanished) or "something is left of every source",
            {"vanished_sources": len(vanished)},
        ),
        Check(
            "no_source_halved",
            not halved,
            ". ".join(halved) or "most of every source is left",
            {"halved_sources": len(halved)},
        ),
    ]
