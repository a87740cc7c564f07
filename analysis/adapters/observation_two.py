"""Does a run support the paper's Observation II: do A of separately trained heads converge while their B separate?"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.adapters.permutation import sign_flip_p_value

SAME_SEED = "different data, same seed"
OTHER_SEED = "different data, other seed"
SEED_CONTROL = "same data, other seed"
UNTRAINED = "untrained, other seed"
FROM_START = "trained and its start"
EXPERTS = "experts of one HydraLoRA"
RELATIONS = (SAME_SEED, OTHER_SEED, SEED_CONTROL, UNTRAINED, FROM_START, EXPERTS)

SUPPORTED, STARTED_EQUAL = "supported", "looks so, but A started equal"
NOT_SUPPORTED, CANNOT_TELL = "not supported", "cannot tell"

LEAST_EFFECT = 0.05
"""Smaller differences between mean similarities are ignored: they are too small to matter."""


@dataclass(frozen=True)
class ObservationTwo:
    """The answer and its evidence.

    Attributes:
        verdict: "supported", "looks so, but A started equal", "not supported" or "cannot tell".
        numbers: name -> mean subspace similarity or another measure; only those that this run has.
    """

    verdict: str
    reason: str
    numbers: dict[str, float]


def observation_two(pairs: pl.DataFrame, *, random_state: int = 0) -> ObservationTwo:
    """Test the paper's Observation II (section 2.3) on a table of pairs like `ParameterBreakdown.pairs`.

    There are two questions. First: are A of one seed more alike than B of the same heads (by subspace, paired by
    place)? Second: did training cause this? It did if A of different seeds are more alike than chance, and at least as
    alike as their B. If no other seed was trained, A of one seed must end nearer to each other than to their common
    start.
    """
    a, b = (_by_place(pairs, SAME_SEED, matrix) for matrix in ("A", "B"))
    both = a.join(b, on=["layer", "module"], suffix="_b")
    if len(both) < 2:
        return ObservationTwo(CANNOT_TELL, "This needs two adapters of one seed, trained on different parts.", {})
    differences = (both["similarity"] - both["similarity_b"]).to_numpy()
    measures = {
        "a_same_seed": _mean(a),
        "b_same_seed": _mean(b),
        "a_minus_b_p": sign_flip_p_value(differences, random_state=random_state),
        "a_chance": float(a["chance"].to_numpy().mean()),
        "a_other_seed": _mean(_by_place(pairs, OTHER_SEED, "A")),
        "b_other_seed": _mean(_by_place(pairs, OTHER_SEED, "B")),
        "b_same_data_other_seed": _mean(_by_place(pairs, SEED_CONTROL, "B")),
        **_data_effect(pairs, random_state),
        "a_to_start": _mean(_by_place(pairs, FROM_START, "A")),
        "a_update_cosine": _update(pairs, "A"),
        "b_update_cosine": _update(pairs, "B"),
    }
    numbers = {name: value for name, value in measures.items() if np.isfinite(value)}
    picture = (
        f"Of heads with one seed, A have a subspace similarity of {numbers['a_same_seed']:.2f} and B of "
        f"{numbers['b_same_seed']:.2f} (paired over {len(both)} places, p = {numbers['a_minus_b_p']:.2g})."
    )
    if numbers["a_minus_b_p"] >= 0.05 or differences.mean() < LEAST_EFFECT:
        return ObservationTwo(NOT_SUPPORTED, f"{picture} A are not clearly more alike than B.{_data(numbers)}", numbers)
    verdict, control = _control(numbers)
    return ObservationTwo(verdict, f"{picture} {control}{_updates(numbers)}{_data(numbers)}", numbers)


def _control(numbers: dict[str, float]) -> tuple[str, str]:
    chance = numbers["a_chance"]
    if (other_seed := numbers.get("a_other_seed")) is not None:
        text = f"With other seeds A have {other_seed:.2f}, where random matrices have {chance:.2f}: "
        if other_seed - chance >= LEAST_EFFECT:
            b = numbers["b_other_seed"]
            if other_seed >= b - LEAST_EFFECT:
                return SUPPORTED, f"{text}training brings them together."
            return STARTED_EQUAL, (
                f"{text}training brings them together a little, and B more ({b:.2f}): A are more alike than B in one "
                f"seed only because they started equal."
            )
        return STARTED_EQUAL, f"{text}they are alike because they started equal, not because they converge."
    if "a_to_start" in numbers:
        text = f"A have {numbers['a_to_start']:.2f} with their common start: "
        if numbers["a_same_seed"] - numbers["a_to_start"] >= LEAST_EFFECT:
            return SUPPORTED, f"{text}they moved, and moved together."
        return STARTED_EQUAL, f"{text}they are no nearer to each other than to where they began."
    return CANNOT_TELL, "Without another seed or the untrained adapter, A may just have started equal."


def _updates(numbers: dict[str, float]) -> str:
    if "a_update_cosine" not in numbers:
        return ""
    a, b = (round(numbers[name], 2) + 0.0 for name in ("a_update_cosine", "b_update_cosine"))  # no "-0.00"
    return f" What training added has a cosine of {a:.2f} between heads for A and {b:.2f} for B."


def _data_effect(pairs: pl.DataFrame, random_state: int) -> dict[str, float]:
    """How much more alike B of two seeds are if they saw the same data, paired by place; nan without such pairs."""
    same, other = (_by_place(pairs, relation, "B") for relation in (SEED_CONTROL, OTHER_SEED))
    both = same.join(other, on=["layer", "module"], suffix="_other")
    if both.is_empty():
        return {}
    differences = (both["similarity"] - both["similarity_other"]).to_numpy()
    p = sign_flip_p_value(differences, random_state=random_state)
    return {"b_data_effect": float(differences.mean()), "b_data_effect_p": p}


def _data(numbers: dict[str, float]) -> str:
    if "b_data_effect" not in numbers:
        return ""
    shown = "the difference is their data" if numbers["b_data_effect_p"] < 0.05 else "no sign of their data"
    return (
        f" Of two seeds, B of the same data have {numbers['b_same_data_other_seed']:.3f} and of different data "
        f"{numbers['b_other_seed']:.3f} (p = {numbers['b_data_effect_p']:.2g}): {shown}."
    )


def _by_place(pairs: pl.DataFrame, relation: str, matrix: str) -> pl.DataFrame:
    chosen = pairs.filter((pl.col("relation") == relation) & (pl.col("matrix") == matrix))
    chosen = chosen.filter(pl.col("subspace_similarity").is_finite())
    means = {"similarity": pl.col("subspace_similarity").mean(), "chance": pl.col("chance").mean()}
    return chosen.group_by("layer", "module").agg(**means).sort("layer", "module")


def _mean(table: pl.DataFrame) -> float:
    return float(table["similarity"].to_numpy().mean()) if len(table) else float("nan")


def _update(pairs: pl.DataFrame, matrix: str) -> float:
    chosen = pairs.filter((pl.col("relation") == SAME_SEED) & (pl.col("matrix") == matrix))
    values = chosen["update_cosine"].drop_nulls().drop_nans()
    return float(values.to_numpy().mean()) if len(values) else float("nan")
