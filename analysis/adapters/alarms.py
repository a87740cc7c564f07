"""Warnings about a router, in plain words."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.adapters.parts import OUTSIDE

INERT_ENTROPY = 0.995
COLLAPSED_USAGE = 0.95
DEAD_SHARE = 0.1
"""An expert is dead if its use is below this share of the use under equal routing (1 / N)."""
SAME_COSINE = 0.95


@dataclass(frozen=True)
class Alarm:
    """One warning for the reader of a report.

    Attributes:
        level: "warning", or "note" if it holds for only a few modules.
        where: "router", "layer 17 self_attn.q_proj" …
    """

    level: str
    where: str
    text: str


def routing_alarms(usage: pl.DataFrame, entropy: pl.DataFrame, similarity: pl.DataFrame) -> tuple[Alarm, ...]:
    """Find the alarms of a router, warnings first.

    Args:
        usage: layer, module, expert, usage.
        entropy: layer, module, entropy.
        similarity: layer, module, expert_a, expert_b, b_cosine, gate_correlation.
    """
    if usage["expert"].n_unique() < 2:
        return ()
    inert = _inert(entropy)
    alarms = (*inert, *_collapsed(usage), *_dead(usage), *same_experts(similarity))
    return tuple(sorted(alarms, key=lambda alarm: alarm.level != "warning"))


def _inert(entropy: pl.DataFrame) -> tuple[Alarm, ...]:
    values = entropy["entropy"].to_numpy()
    if values.mean() > INERT_ENTROPY:
        return (Alarm("warning", "router", f"router inert: entropy {values.mean():.3f}, every token gets all experts"),)
    rows = entropy.filter(pl.col("entropy") > INERT_ENTROPY).iter_rows(named=True)
    return tuple(Alarm("note", _where(row), f"{_where(row)} inert: entropy {row['entropy']:.3f}") for row in rows)


def _collapsed(usage: pl.DataFrame) -> tuple[Alarm, ...]:
    rows = usage.filter(pl.col("usage") > COLLAPSED_USAGE).iter_rows(named=True)
    return tuple(
        Alarm("warning", _where(row), f"{_where(row)} collapsed: expert {row['expert']} has {row['usage']:.1%} of use")
        for row in rows
    )


def _dead(usage: pl.DataFrame) -> tuple[Alarm, ...]:
    """Dead experts. Collapsed modules are skipped: they have an alarm of their own."""
    alive = usage.filter(pl.col("usage").max().over("layer", "module") <= COLLAPSED_USAGE)
    n_modules, n_experts = usage.select("layer", "module").n_unique(), usage["expert"].n_unique()
    dead = alive.filter(pl.col("usage") < DEAD_SHARE / n_experts).sort("expert", "layer", "module")
    alarms = []
    for (expert,), rows in dead.group_by("expert", maintain_order=True):
        if len(rows) == n_modules:
            alarms.append(Alarm("warning", "all layers", f"expert {expert} is dead everywhere"))
        else:
            alarms.append(
                Alarm("note", _places(rows), f"expert {expert} is dead in {len(rows)} of {n_modules} modules")
            )
    return tuple(alarms)


def same_experts(similarity: pl.DataFrame) -> tuple[Alarm, ...]:
    """Experts with the same B. Equal gates alone are no alarm: experts with different B still do different work."""
    n_modules = similarity.select("layer", "module").n_unique()
    typical = typical_cosine(similarity)
    if typical is not None and typical > SAME_COSINE and similarity.select("expert_a", "expert_b").n_unique() > 1:
        return (Alarm("warning", "all layers", f"all experts are nearly the same: median cosine of B {typical:.3f}"),)
    same = similarity.filter(pl.col("b_cosine") > SAME_COSINE).sort("expert_a", "expert_b", "layer", "module")
    alarms = []
    for (a, b), rows in same.group_by("expert_a", "expert_b", maintain_order=True):
        share = len(rows) / n_modules
        text = f"experts {a} and {b} are the same in {len(rows)} of {n_modules} modules"
        level = "warning" if share >= 0.5 else "note"
        alarms.append(Alarm(level, _places(rows), f"experts {a} and {b} are the same" if share == 1 else text))
    return tuple(alarms)


def typical_cosine(similarity: pl.DataFrame) -> float | None:
    """Median cosine between the B of two experts, over pairs and modules; None if it was not measured."""
    cosines = similarity["b_cosine"].drop_nulls().to_numpy()
    return float(np.median(cosines)) if len(cosines) else None


def _places(rows: pl.DataFrame, most: int = 4) -> str:
    places = [_where(row) for row in rows.select("layer", "module").unique(maintain_order=True).to_dicts()]
    rest = f" and {len(places) - most} more" if len(places) > most else ""
    return ", ".join(places[:most]) + rest


def _where(row: dict[str, object]) -> str:
    return str(row["module"]) if row["layer"] == OUTSIDE else f"layer {row['layer']} {row['module']}"
