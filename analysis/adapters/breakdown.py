"""Effects of training on A and B: component adapters compared with each other and with controls.

The paper (section 2.3, Figure 3) trains one LoRA for each part of a corpus, all from the same seed. In its t-SNE plot
the A matrices coincide and the B matrices separate. Equal seeds start with equal A, so that plot alone proves little.
This module adds controls: other seeds, untrained adapters, and how far each matrix moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from analysis.adapters.observation_two import (
    EXPERTS,
    FROM_START,
    OTHER_SEED,
    SAME_SEED,
    SEED_CONTROL,
    UNTRAINED,
    ObservationTwo,
    observation_two,
)
from analysis.adapters.pairs import PAIR_SCHEMA, Starts, compare
from analysis.adapters.parts import SHARED_LORA, State, Submodule, parameter_counts, submodules
from analysis.adapters.permutation import matching, separability
from analysis.adapters.projection import Method, distances, embed, gram
from analysis.adapters.subspace import (
    effective_rank,
    relative_distance,
)


@dataclass(frozen=True)
class ComponentAdapter:
    """A plain LoRA trained on one part of a corpus, or a control.

    Attributes:
        name: short and unique; names the head in tables and figures.
        part: what it was trained on: a cluster, a task or an IID part.
        state: parameter name -> array.
        trained: False for the initial adapter, from which all adapters of this seed start.
    """

    name: str
    part: str
    seed: int
    state: State
    trained: bool = True


@dataclass(frozen=True)
class ParameterBreakdown:
    """Tables of the breakdown.

    Attributes:
        submodules: head, part, seed, trained, layer, module, matrix, r, dim, norm, effective_rank, from_start
            (relative distance from the untrained adapter of the same seed; null if unknown, and for B, which starts at
            0).
        pairs: head_a, head_b, relation, layer, module, matrix, subspace_similarity, mean_angle, largest_angle
            (degrees), cka, cosine, relative_distance, update_cosine (cosine of what training added; null if unknown),
            chance (similarity of random subspaces).
        separability: matrix, silhouette, silhouette_p, knn_accuracy, knn_p, chance; heads of one seed.
        identification: matrix, accuracy, p, chance, n_places; matches the heads of one seed with those of another.
        embedding: method, panel ("all", "A", "B"), head, layer, module, matrix, x, y.
        parameters: head, part, n_parameters.
        observation: whether this run supports the paper's Observation II.
    """

    submodules: pl.DataFrame
    pairs: pl.DataFrame
    separability: pl.DataFrame
    identification: pl.DataFrame
    embedding: pl.DataFrame
    parameters: pl.DataFrame
    observation: ObservationTwo


# t-SNE on few points: on a busy machine, synchronising BLAS threads costs more than they save.
@threadpool_limits.wrap(limits=1, user_api="blas")
def break_down(
    components: Sequence[ComponentAdapter],
    hydralora: State | None = None,
    *,
    shared_expert: bool = False,
    shared_rank: int = 0,
    methods: Sequence[Method] = ("t-SNE", "UMAP"),
    random_state: int = 0,
) -> ParameterBreakdown:
    """Compare the A and B matrices of component adapters, and the experts of a HydraLoRA.

    Args:
        components: adapters trained on different parts and, as controls, adapters of other seeds and untrained ones.
        hydralora: parameters of a trained HydraLoRA, whose experts are compared with each other.
        shared_expert: whether the HydraLoRA has an always-on expert besides the routed ones.
        shared_rank: rank of its always-on LoRA; 0 if it has none.
        methods: projections to two dimensions.

    Raises:
        ValueError: two components have the same name, or the adapters differ in their layers or modules.
    """
    names = [component.name for component in components]
    if len(set(names)) < len(names):
        raise ValueError(f"components: expected unique names, got {names}")
    heads = {component.name: submodules(component.state, component.name) for component in components}
    _check_places(heads)
    always_on: dict[str, Any] = {"shared_expert": shared_expert, "shared_rank": shared_rank}
    experts = submodules(hydralora, "hydralora", **always_on) if hydralora is not None else []
    starts = _starts(components, heads)
    pairs = _pairs(components, heads, starts, experts)
    shown = _one_seed(components, heads)
    counts = {c.name: parameter_counts(c.state) for c in components}
    if hydralora is not None:
        counts["hydralora"] = parameter_counts(hydralora)
    return ParameterBreakdown(
        submodules=_submodule_table(components, heads, starts, experts),
        pairs=pairs,
        separability=_separability(shown, random_state),
        identification=_identification(components, pairs, random_state),
        embedding=_embedding(shown, methods, random_state),
        parameters=pl.DataFrame(
            [
                {"head": head, "part": part, "n_parameters": n}
                for head, parts in counts.items()
                for part, n in parts.items()
                if n
            ],
            schema={"head": pl.String, "part": pl.String, "n_parameters": pl.Int64},
        ),
        observation=observation_two(pairs, random_state=random_state),
    )


Heads = dict[str, list[Submodule]]


def _check_places(heads: Heads) -> None:
    places = {name: [(s.place, s.matrix) for s in parts] for name, parts in heads.items()}
    first = next(iter(places), None)
    for name, found in places.items():
        if first is not None and found != places[first]:
            raise ValueError(
                f"components: expected {name} to adapt the same {len(places[first]) // 2} modules as {first}, got "
                f"{len(found) // 2}; train all components with the same target_modules"
            )


def _starts(components: Sequence[ComponentAdapter], heads: Heads) -> Starts:
    """A of each seed's untrained adapter, by place."""
    return {c.seed: {s.place: s for s in heads[c.name] if s.matrix == "A"} for c in components if not c.trained}


def _one_seed(components: Sequence[ComponentAdapter], heads: Heads) -> list[Submodule]:
    """Matrices of the first seed's trained adapters, one adapter for each part, as in the paper's figures."""
    chosen: dict[str, str] = {}
    seed = next((c.seed for c in components if c.trained), None)
    for component in components:
        if component.trained and component.seed == seed:
            chosen.setdefault(component.part, component.name)
    return [s for name in chosen.values() for s in heads[name] if np.any(s.rows)]


def _submodule_table(
    components: Sequence[ComponentAdapter], heads: Heads, starts: Starts, experts: Sequence[Submodule]
) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for component in components:
        about = {"part": component.part, "seed": component.seed, "trained": component.trained}
        for submodule in heads[component.name]:
            start = starts.get(component.seed, {}).get(submodule.place) if submodule.matrix == "A" else None
            moved = relative_distance(submodule.rows, start.rows) if start and component.trained else None
            rows.append({**_describe(submodule), **about, "from_start": moved})
    rows += [{**_describe(s), "part": "hydralora", "seed": None, "trained": True, "from_start": None} for s in experts]
    return pl.DataFrame(rows, infer_schema_length=None)


def _describe(submodule: Submodule) -> dict[str, Any]:
    return {
        "head": submodule.head,
        "layer": submodule.layer,
        "module": submodule.module,
        "matrix": submodule.matrix,
        "r": submodule.rows.shape[0],
        "dim": submodule.rows.shape[1],
        "norm": float(np.linalg.norm(submodule.rows)),
        "effective_rank": effective_rank(submodule.rows),
    }


def _pairs(
    components: Sequence[ComponentAdapter], heads: Heads, starts: Starts, experts: Sequence[Submodule]
) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for a, b in combinations(components, 2):
        relation = relation_of(a, b)
        if relation is None:
            continue
        for one, other in zip(heads[a.name], heads[b.name], strict=True):
            if one.matrix == "B" and relation in (FROM_START, UNTRAINED):
                continue  # B starts at zero
            start_a, start_b = (starts.get(c.seed, {}).get(one.place) if c.trained else None for c in (a, b))
            rows.append({"relation": relation, **compare(one, other, start_a, start_b)})
    by_place: dict[tuple[int, str], list[Submodule]] = {}
    for expert in experts:
        if expert.matrix == "B" and expert.head != SHARED_LORA:  # the shared LoRA may have another rank
            by_place.setdefault(expert.place, []).append(expert)
    for blocks in by_place.values():
        rows += [{"relation": EXPERTS, **compare(a, b, None, None)} for a, b in combinations(blocks, 2)]
    return pl.DataFrame(rows, schema=PAIR_SCHEMA)


def relation_of(a: ComponentAdapter, b: ComponentAdapter) -> str | None:
    """How two adapters are related; None if comparing them says nothing about Observation II."""
    if a.trained and b.trained:
        if a.seed == b.seed:
            return SAME_SEED if a.part != b.part else None
        return OTHER_SEED if a.part != b.part else SEED_CONTROL
    if not a.trained and not b.trained:
        return UNTRAINED if a.seed != b.seed else None
    return FROM_START if a.seed == b.seed else None


def _separability(shown: Sequence[Submodule], random_state: int) -> pl.DataFrame:
    rows = []
    for matrix in ("A", "B"):
        chosen = [s for s in shown if s.matrix == matrix]
        heads, labels = np.unique([s.head for s in chosen], return_inverse=True)
        if len(heads) < 2 or np.bincount(labels).min() < 2:
            continue
        places = np.unique([f"{s.layer} {s.module}" for s in chosen], return_inverse=True)[1]
        result = separability(distances(gram(chosen)), labels, places, random_state=random_state)
        rows.append({"matrix": matrix, **vars(result)})
    columns = ("silhouette", "silhouette_p", "knn_accuracy", "knn_p", "chance")
    return pl.DataFrame(rows, schema={"matrix": pl.String, **dict.fromkeys(columns, pl.Float64)})


def _embedding(shown: Sequence[Submodule], methods: Sequence[Method], random_state: int) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for panel in ("all", "A", "B"):
        chosen = [s for s in shown if panel in ("all", s.matrix)]
        if len(chosen) < 5:
            continue
        cosines = gram(chosen)
        for method in methods:
            points = embed(cosines, method, random_state=random_state)
            for submodule, (x, y) in zip(chosen, points, strict=True):
                about = {"head": submodule.head, "layer": submodule.layer, "module": submodule.module}
                place = {"matrix": submodule.matrix, "x": float(x), "y": float(y)}
                rows.append({"method": method, "panel": panel, **about, **place})
    strings = ("method", "panel", "head")
    schema = {**dict.fromkeys(strings, pl.String), "layer": pl.Int64, "module": pl.String, "matrix": pl.String}
    return pl.DataFrame(rows, schema={**schema, "x": pl.Float64, "y": pl.Float64})


def _identification(components: Sequence[ComponentAdapter], pairs: pl.DataFrame, random_state: int) -> pl.DataFrame:
    """Match heads across seeds by their subspaces.

    Entries of B cannot be compared across seeds: each seed has its own A, and so its own basis for the input of B.
    """
    by_seed: dict[int, dict[str, str]] = {}
    for component in components:
        if component.trained:
            by_seed.setdefault(component.seed, {}).setdefault(component.part, component.name)
    schema = {"matrix": pl.String, "accuracy": pl.Float64, "p": pl.Float64, "chance": pl.Float64, "n_places": pl.Int64}
    first, second = [*by_seed.values(), {}, {}][:2]
    parts = [part for part in first if part in second]
    if len(parts) < 2:
        return pl.DataFrame(schema=schema)
    wanted = {(first[one], second[other]): (i, j) for i, one in enumerate(parts) for j, other in enumerate(parts)}
    wanted |= {(b, a): cell for (a, b), cell in wanted.items()}
    rows = []
    for matrix in ("A", "B"):
        by_place: dict[tuple[int, str], np.ndarray] = {}
        chosen = pairs.filter(pl.col("matrix") == matrix)
        for a, b, *place, similarity in chosen.select(
            "head_a", "head_b", "layer", "module", "subspace_similarity"
        ).iter_rows():
            if cell := wanted.get((a, b)):
                empty = np.zeros((len(parts), len(parts)))
                by_place.setdefault((place[0], place[1]), empty)[cell] = similarity
        result = matching(np.stack(list(by_place.values())), random_state=random_state)
        rows.append({"matrix": matrix, **vars(result), "n_places": len(by_place)})
    return pl.DataFrame(rows, schema=schema)
