"""How many clusters a corpus has, how certain the number is, and the reason in words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from analysis.clusters.choice.elbow_rules import l_method, l_method_corners
from analysis.clusters.choice.stability import half_split_agreement
from analysis.clusters.choice.structure import MIN_SHARED, StructureEvidence, measure_structure
from analysis.clusters.kmeans import ClusterSweep
from analysis.text.blocks import Texts

IMBALANCE_LIMIT = 5.0
SMALLEST_CAP = 50


@dataclass(frozen=True)
class ClusterChoice:
    """The number of clusters, and how reliable it is.

    Attributes:
        interval: smallest and largest elbow that the L-method finds if the sweep is shortened, down to half its length.
            Contains `value`.
        sharpness: slope of log SSE before `value` divided by the slope after it; 1 is a straight line without an elbow.
        stability: adjusted Rand index between the clusters found in two halves of the rows; nan if it cannot be
            measured.
        runner_up: the second best number; None if there is none.
        structure: False if the corpus has no clear parts, so one LoRA is enough.
        evidence: the measurements behind `structure`.
        probability_of_one: probability that the corpus is one part; see `StructureEvidence`.
        too_small: what the corpus has too little of for a reliable number, in words; empty if it has enough.
        reason: a few sentences for a person.
        table: one dict for each K: n_clusters, inertia, score (the score of the rule; -inf if undefined).
    """

    value: int
    interval: tuple[int, int]
    rule: str
    sharpness: float
    stability: float
    runner_up: int | None
    structure: bool
    evidence: StructureEvidence
    probability_of_one: float
    too_small: str
    reason: str
    table: tuple[dict[str, float], ...]


def source_weights(sources: pl.Series | Sequence[str]) -> NDArray[np.float64] | None:
    """Weights [n] for `sweep_kmeans` that cap each source at the size of the smallest one (but at least 50 documents).

    None if the largest source has at most five times as many documents as the smallest, because no cap is needed.

    >>> weights = source_weights(["large"] * 1000 + ["small"] * 100)
    >>> float(weights[0]), float(weights[-1])
    (0.1, 1.0)
    """
    _, of_row, sizes = np.unique(np.asarray(sources, dtype=str), return_inverse=True, return_counts=True)
    if sizes.max() <= IMBALANCE_LIMIT * sizes.min():
        return None
    cap = max(int(sizes.min()), SMALLEST_CAP)
    return np.asarray(np.minimum(1.0, cap / sizes)[of_row], dtype=np.float64)


def select_num_clusters(
    X: ArrayLike,
    sweep: ClusterSweep,
    texts: Texts,
    *,
    n_clusters: int | None = None,
    random_state: int = 0,
) -> ClusterChoice:
    """Choose the number of clusters of a corpus.

    `measure_structure` first decides whether the corpus has more than one part; without structure the answer is 1. The
    L-method then finds the best K above 1.

    Args:
        X: [n, d], rows that the sweep was fitted to.
        texts: [n], documents behind these rows.
        n_clusters: the number to take, even if the evidence contradicts it; None chooses it from the sweep.

    Raises:
        ValueError: the sweep lacks K=1, the numbers of texts and rows differ, or `n_clusters` is not in the sweep.
    """
    if sweep.n_clusters[0] != 1:
        raise ValueError(f"sweep: expected K from 1 up, to compare with no clusters; got {list(sweep.n_clusters)}")
    rows = np.ascontiguousarray(X, np.float32)
    if len(texts) != len(rows):
        raise ValueError(f"texts: expected one for each of {len(rows)} rows, got {len(texts)}")
    evidence = measure_structure(texts, sweep.sample_weight, random_state)
    scores = _scores(sweep)
    rule = "l_method" if n_clusters is None else "manual"
    ranking = _ranking(sweep, scores)
    if n_clusters is not None:
        value = sweep.n_clusters[sweep.index(n_clusters)]
    else:
        value = _best(sweep, ranking) if evidence.structure else 1
    stability = half_split_agreement(rows, value, random_state=random_state) if value > 1 else 1.0
    sharpness = _sharpness(sweep, value)
    others = [k for k in ranking if k != value]
    return ClusterChoice(
        value=value,
        interval=_interval(sweep, value),
        rule=rule,
        sharpness=sharpness,
        stability=stability,
        runner_up=others[0] if others else None,
        structure=evidence.structure,
        evidence=evidence,
        probability_of_one=evidence.probability_of_one,
        too_small=evidence.too_small,
        reason=_reason(sweep, rule, value, ranking, evidence, sharpness, stability),
        table=tuple(
            {"n_clusters": float(k), "inertia": float(sse), "score": float(score)}
            for k, sse, score in zip(sweep.n_clusters, sweep.inertia, scores, strict=True)
        ),
    )


def elbow(sweep: ClusterSweep) -> int:
    """The number of clusters of a corpus with structure, without the evidence around it."""
    return _best(sweep, _ranking(sweep, _scores(sweep)))


def _ranking(sweep: ClusterSweep, scores: NDArray[np.float64]) -> list[int]:
    return [sweep.n_clusters[i] for i in np.argsort(-scores, kind="stable") if scores[i] > -np.inf]


def _scores(sweep: ClusterSweep) -> NDArray[np.float64]:
    if len(sweep.n_clusters) < 3:
        return np.full(len(sweep.n_clusters), -np.inf)
    return l_method(sweep)


def _best(sweep: ClusterSweep, ranking: Sequence[int]) -> int:
    """The first K of the ranking. If some K leaves no error (all rows of a cluster are equal), no elbow is needed."""
    without_error = np.flatnonzero(sweep.inertia <= 1e-6 * sweep.inertia[0])
    if len(without_error) or not ranking:
        return sweep.n_clusters[int(without_error[0])] if len(without_error) else sweep.n_clusters[0]
    return ranking[0]


def _interval(sweep: ClusterSweep, value: int) -> tuple[int, int]:
    if value == 1 or len(sweep.n_clusters) < 3:
        return value, value
    corners = l_method_corners(sweep).tolist()
    return min(value, *corners), max(value, *corners)


def _sharpness(sweep: ClusterSweep, value: int) -> float:
    index = sweep.index(value)
    if index in (0, len(sweep.n_clusters) - 1) or sweep.inertia[-1] <= 0:
        return 1.0
    logs = np.log(sweep.inertia)
    before = (logs[0] - logs[index]) / (value - sweep.n_clusters[0])
    after = (logs[index] - logs[-1]) / (sweep.n_clusters[-1] - value)
    return float(before / after) if after > 0 else float("inf")


def _reason(
    sweep: ClusterSweep,
    rule: str,
    value: int,
    ranking: Sequence[int],
    evidence: StructureEvidence,
    sharpness: float,
    stability: float,
) -> str:
    sentences = []
    if sweep.sample_weight is not None:
        ratio = float(sweep.sample_weight.max() / sweep.sample_weight.min())
        sentences.append(f"Sources are badly imbalanced ({ratio:.0f} to 1); balanced sweep used.")
    if rule == "manual":
        wanted = f"the L-method would say {_best(sweep, ranking) if evidence.structure else 1}"
        sentences.append(f"{value} clusters, because you asked for that number; {wanted}.")
    elif not evidence.structure:
        sentences.append(
            f"No clear structure: one LoRA is enough. {evidence.n_clusters} clusters found with one half of the words "
            f"explain {evidence.explained:.1%} of the variation there and {max(evidence.shared, 0):.1%} in the other "
            f"half; parts of a corpus would explain at least {MIN_SHARED[evidence.n_clusters]:.1%}."
        )
    else:
        sentences.append(
            f"{value} clusters: up to there each one removes {sharpness:.1f} times as much of the remaining "
            f"error as later ones do (L-method)."
        )
    one = evidence.probability_of_one
    weak = f", so the evidence {'for several ' * evidence.structure}is weak" if 0.1 < one < 0.9 else ""
    sentences.append(f"Probability of one part: {one:.0%}{weak}.")
    if value > 1 and not np.isnan(stability):
        sentences.append(f"Two halves of the corpus agree on these clusters to {stability:.2f} (1 is fully).")
    if evidence.too_small:
        sentences.append(f"But this corpus is too small to say: it has {evidence.too_small}.")
    return " ".join(sentences)
