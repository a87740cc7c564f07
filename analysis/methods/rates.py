"""Learning rates to try: a grid of factor 2, extended until the best rate lies between worse ones."""

import math
from collections.abc import Mapping, Sequence

FACTOR = 2.0


def best_rate(losses: Mapping[float, float]) -> float:
    """The rate with the lowest loss. A loss that is not finite is the worst."""
    return min(losses, key=lambda rate: losses[rate] if math.isfinite(losses[rate]) else math.inf)


def is_bracketed(losses: Mapping[float, float]) -> bool:
    """Whether rates below and above the best one were tried."""
    return min(losses) < best_rate(losses) < max(losses)


def next_rates(losses: Mapping[float, float], start: Sequence[float], most: int = 8) -> list[float]:
    """The rates to try next.

    Args:
        losses: rate -> validation loss, of the rates tried so far.
        start: rates to try first.
        most: at most so many rates are tried beyond those of `start`.

    Returns:
        The rates of `start` that were not tried. Then half the lowest rate or twice the highest one, as long as that
        one is the best. No rate when the best one is bracketed.
    """
    if missing := [rate for rate in start if rate not in losses]:
        return missing
    if is_bracketed(losses) or len(losses) >= len(start) + most:
        return []
    best = best_rate(losses)
    below, above = [best / FACTOR], [best * FACTOR]
    return (below if best == min(losses) else []) + (above if best == max(losses) else [])
