"""How many clusters a corpus has: rules over the sweep's SSE curve, and the answer in words."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.clustering import ClusterSweep


@dataclass(frozen=True)
class ClusterChoice:
    """The number of clusters, hence of experts, and how far to trust it.

    Attributes:
        value: the number of clusters.
        interval: least and greatest number that is about as well supported.
        rule: name of the rule that chose.
        sharpness: slope of the SSE curve before `value` over the slope after it; 1 is a straight line.
        stability: agreement of two halves of the rows on `value` clusters (adjusted Rand index); nan if not measured.
        runner_up: the next best number; None if there is none.
        structure: False where the corpus has no clear parts, and one LoRA is enough.
        reason: one or two sentences for a person.
        table: one dict for each K: n_clusters, inertia, score.
    """

    value: int
    interval: tuple[int, int]
    rule: str
    sharpness: float
    stability: float
    runner_up: int | None
    structure: bool
    reason: str
    table: tuple[dict[str, float], ...]


def l_method(n_clusters: NDArray[np.int64], inertia: NDArray[np.float64]) -> NDArray[np.float64]:
    """Score of each K: minus the error of two straight lines that meet there.

    Source: Salvador and Chan (2004), Determining the number of clusters with hierarchical clustering.
    """
    scores = np.full(len(n_clusters), -np.inf)
    for split in range(1, len(n_clusters) - 1):
        left = _line_error(n_clusters[: split + 1], inertia[: split + 1])
        right = _line_error(n_clusters[split:], inertia[split:])
        scores[split] = -(left + right)
    return scores


def second_difference(n_clusters: NDArray[np.int64], inertia: NDArray[np.float64]) -> NDArray[np.float64]:
    """Score of each K: how much the fall of the SSE slows down there."""
    slopes = np.diff(inertia) / np.diff(n_clusters)
    return np.concatenate([[-np.inf], np.diff(slopes), [-np.inf]])


RULES: dict[str, Callable[[NDArray[np.int64], NDArray[np.float64]], NDArray[np.float64]]] = {
    "l_method": l_method,
    "second_difference": second_difference,
}


def select_num_clusters(
    X: ArrayLike,
    sweep: ClusterSweep,
    *,
    rule: str = "l_method",
    random_state: int = 0,
) -> ClusterChoice:
    """The number of clusters that a rule reads off a sweep.

    Raises:
        ValueError: an unknown rule, or too few K for it.
    """
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
    if len(sweep.n_clusters) < 3:
        raise ValueError(f"rule {rule}: expected a sweep of at least 3 K, got {list(sweep.n_clusters)}")
    ks = np.array(sweep.n_clusters)
    scores = RULES[rule](ks, sweep.inertia)
    order = np.argsort(-scores, kind="stable")
    best, second = int(order[0]), int(order[1])
    near = np.flatnonzero(scores >= scores[best] - 0.5 * abs(scores[best]))
    sharpness = _sharpness(ks, sweep.inertia, best)
    value = int(ks[best])
    return ClusterChoice(
        value=value,
        interval=(int(ks[near].min()), int(ks[near].max())),
        rule=rule,
        sharpness=sharpness,
        stability=float("nan"),
        runner_up=int(ks[second]),
        structure=value > 1,
        reason=f"The error of the clusters falls {sharpness:.1f} times faster before {value} clusters than after.",
        table=tuple(
            {"n_clusters": float(k), "inertia": float(sse), "score": float(score)}
            for k, sse, score in zip(ks, sweep.inertia, scores, strict=True)
        ),
    )


def _line_error(x: NDArray[np.int64], y: NDArray[np.float64]) -> float:
    """Sum of squared residuals of the best straight line."""
    if len(x) <= 2:
        return 0.0
    residuals = y - np.polyval(np.polyfit(x, y, 1), x)
    return float(residuals @ residuals)


def _sharpness(ks: NDArray[np.int64], inertia: NDArray[np.float64], index: int) -> float:
    if index in (0, len(ks) - 1):
        return 1.0
    before = (inertia[0] - inertia[index]) / (ks[index] - ks[0])
    after = (inertia[index] - inertia[-1]) / (ks[-1] - ks[index])
    return float(before / after) if after > 0 else float("inf")
