"""Use of the experts by the router, agreement of gates with the corpus, and alarms in words.

An expert's number has a meaning only within one adapted module: expert 0 of layer 3 is unrelated to expert 0 of layer
17, unless gates are given for a whole sequence. So every statistic is computed module by module and then averaged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.adapters.alarms import SAME_COSINE, Alarm, routing_alarms, same_experts, typical_cosine
from analysis.adapters.association import Association, gate_association
from analysis.adapters.parts import State, submodules
from analysis.adapters.subspace import cosine

MODULE_KEY = ("layer", "module")


@dataclass(frozen=True)
class DocumentGates:
    """Gates of documents, averaged over tokens.

    Attributes:
        gates: [n_documents, n_modules, N].
        modules: layer and module of each index on the second axis.
        document_ids: `document_id` of each index on the first axis.
    """

    gates: NDArray[np.float32]
    modules: Sequence[tuple[int, str]]
    document_ids: Sequence[str]

    def __post_init__(self) -> None:
        expected = (len(self.document_ids), len(self.modules))
        if self.gates.ndim != 3 or self.gates.shape[:2] != expected:
            raise ValueError(f"gates: expected shape [{expected[0]}, {expected[1]}, N], got {list(self.gates.shape)}")


@dataclass(frozen=True)
class RoutingAnalysis:
    """Tables of the routing analysis.

    Attributes:
        gates: the input table: layer, module, expert, group_kind, group, gate, n_tokens.
        entropy: the input table: layer, module, entropy (0: one expert per token; 1: equal gates).
        usage: layer, module, expert, usage (mean gate over all tokens).
        experts: layer, module, expert, usage, cluster (the cluster with the highest lift), lift (usage in that cluster
            divided by mean usage), top_terms of that cluster.
        similarity: layer, module, expert_a, expert_b, b_cosine, gate_correlation (null if not available).
        association: layer, module, group_kind, nmi, nmi_null, variance_explained, variance_null, p_value. The row with
            null layer and module is the mean over modules.
        alarms: problems found, worst first.
        specialised: whether the experts specialised: "yes", "weakly", "no" or "cannot tell".
        reason: the evidence in plain words.
    """

    gates: pl.DataFrame
    entropy: pl.DataFrame
    usage: pl.DataFrame
    experts: pl.DataFrame
    similarity: pl.DataFrame
    association: pl.DataFrame
    alarms: tuple[Alarm, ...]
    specialised: str
    reason: str


def analyse_routing(
    gates: pl.DataFrame,
    entropy: pl.DataFrame,
    *,
    document_gates: DocumentGates | None = None,
    documents: pl.DataFrame | None = None,
    adapter: State | None = None,
    shared_expert: bool = False,
    shared_rank: int = 0,
    top_terms: Mapping[int, Sequence[str]] | None = None,
    given_by: str | None = None,
    n_permutations: int = 499,
    random_state: int = 0,
) -> RoutingAnalysis:
    """Analyse recorded gates.

    Args:
        gates: layer, module, expert, group_kind ("all", "source", "task" or "cluster"), group, gate, n_tokens.
        entropy: layer, module, entropy (mean over tokens, divided by log N).
        document_gates: gates of single documents, to measure the association with groups.
        documents: document_id and any of cluster, source, task; required with `document_gates`.
        adapter: parameters of the HydraLoRA, to measure the similarity of experts.
        shared_expert: whether the last block of B is the always-on expert.
        shared_rank: rank of the adapter's always-on LoRA; 0 if it has none.
        top_terms: cluster -> its top terms.
        given_by: for adapters without a router, the grouping that determines the gates ("source", "task" or "cluster").
            A rarely used expert then only means a rare group, so it is not reported as dead.

    Raises:
        ValueError: a column is missing, there are no gates over all tokens, or `document_gates` is given without
            `documents`.
    """
    _require(gates, "gates", ("layer", "module", "expert", "group_kind", "group", "gate"))
    _require(entropy, "entropy", ("layer", "module", "entropy"))
    usage = gates.filter(pl.col("group_kind") == "all").select(*MODULE_KEY, "expert", usage="gate")
    usage = usage.sort(*MODULE_KEY, "expert")
    if usage.is_empty():
        raise ValueError("gates: expected rows with group_kind 'all', got none; record gates over all tokens as well")
    similarity = _similarity(adapter, shared_expert, shared_rank, document_gates)
    found = _association(document_gates, documents, n_permutations, random_state)
    if given_by is None:
        specialised, reason = specialisation(entropy, found, usage, similarity)
        alarms = routing_alarms(usage, entropy, similarity)
    else:
        specialised, reason = given_specialisation(given_by, similarity)
        alarms = same_experts(similarity)
    return RoutingAnalysis(
        gates=gates,
        entropy=entropy,
        usage=usage,
        experts=_experts(gates, usage, top_terms or {}),
        similarity=similarity,
        association=_association_table(found, document_gates),
        alarms=alarms,
        specialised=specialised,
        reason=reason,
    )


def specialisation(
    entropy: pl.DataFrame, found: Mapping[str, Association], usage: pl.DataFrame, similarity: pl.DataFrame
) -> tuple[str, str]:  # fmt: skip
    """Whether experts specialised ("yes", "weakly", "no", "cannot tell"), and the evidence in words.

    Gates that follow the clusters are not enough: if all experts are the same, the choice has no effect.
    """
    if usage["expert"].n_unique() == 1:
        return "no", "There is one expert: an ordinary LoRA."
    mean_entropy = float(entropy["entropy"].to_numpy().mean())
    if mean_entropy > 0.995:
        return "no", f"The router is inert: gates are uniform for every token (normalised entropy {mean_entropy:.3f})."
    kind = next((kind for kind in ("cluster", "source", "task") if kind in found), None)
    if kind is None:
        return "cannot tell", f"Normalised entropy {mean_entropy:.3f}; gates of single documents were not recorded."
    result = found[kind]
    explained, p = result.explained_beyond_chance, result.p_value
    text = (
        f"The {kind} of a document explains {100 * explained:.0f}% of the variance of its gates beyond chance "
        f"(p = {p:.2g}); normalised mutual information of the strongest expert and the {kind} {result.nmi:.2f}, "
        f"{result.nmi_null:.2f} by chance; normalised entropy {mean_entropy:.3f}."
    )
    if p >= 0.05:
        return "no", text
    cosine_of_experts = typical_cosine(similarity)
    if cosine_of_experts is not None and cosine_of_experts > SAME_COSINE:
        same = f"The experts are nearly the same (median cosine of their B {cosine_of_experts:.3f}): it hardly matters"
        return "no", f"{same} which one a token gets. {text}"
    return ("yes" if explained >= 0.25 else "weakly"), text


def given_specialisation(given_by: str, similarity: pl.DataFrame) -> tuple[str, str]:
    """Whether experts specialised, for given gates.

    Given gates follow their groups by construction, so the only question is whether the experts differ.
    """
    text = f"Gates are given: a document goes to the expert of its {given_by}, which is predicted from its prompt."
    cosine_of_experts = typical_cosine(similarity)
    if cosine_of_experts is None:
        return "cannot tell", f"{text} The experts were not compared."
    text = f"{text} Two experts' B have a median cosine of {cosine_of_experts:.3f}"
    if cosine_of_experts > SAME_COSINE:
        return "no", f"{text}: they learnt nearly the same."
    return "yes", f"{text}, where 1 is the same."


def _require(table: pl.DataFrame, name: str, columns: Sequence[str]) -> None:
    if missing := [column for column in columns if column not in table.columns]:
        raise ValueError(f"{name}: expected columns {', '.join(columns)}; got no {', '.join(missing)}")


def _experts(gates: pl.DataFrame, usage: pl.DataFrame, top_terms: Mapping[int, Sequence[str]]) -> pl.DataFrame:
    """Each expert with the cluster in which its usage exceeds its mean usage the most."""
    clusters = gates.filter(pl.col("group_kind") == "cluster").join(usage, on=[*MODULE_KEY, "expert"])
    lifts = clusters.with_columns(lift=pl.col("gate") / pl.col("usage")).sort("lift", descending=True, nulls_last=True)
    best = lifts.unique([*MODULE_KEY, "expert"], keep="first", maintain_order=True)
    best = best.select(*MODULE_KEY, "expert", cluster=pl.col("group").cast(pl.Int64), lift="lift")
    terms = pl.DataFrame(
        {"cluster": list(top_terms), "top_terms": [list(words) for words in top_terms.values()]},
        schema={"cluster": pl.Int64, "top_terms": pl.List(pl.String)},
    )
    table = usage.join(best, on=[*MODULE_KEY, "expert"], how="left").join(terms, on="cluster", how="left")
    return table.sort(*MODULE_KEY, "expert")


def _similarity(
    adapter: State | None, shared_expert: bool, shared_rank: int, document_gates: DocumentGates | None
) -> pl.DataFrame:
    """For each pair of experts in a module: the cosine of their B and the correlation of their gates."""
    cosines: dict[tuple[int, str, int, int], float] = {}
    if adapter is not None:
        blocks: dict[tuple[int, str], list[NDArray[np.float32]]] = {}
        for part in submodules(adapter, "hydralora", shared_expert=shared_expert, shared_rank=shared_rank):
            if part.matrix == "B" and part.head.startswith("expert"):
                blocks.setdefault(part.place, []).append(part.rows)
        for place, parts in blocks.items():
            for a, b in combinations(range(len(parts)), 2):
                cosines[(*place, a, b)] = cosine(parts[a], parts[b])
    correlations: dict[tuple[int, str, int, int], float] = {}
    if document_gates is not None:
        for m, place in enumerate(document_gates.modules):
            matrix = _correlation(document_gates.gates[:, m])
            for a, b in combinations(range(len(matrix)), 2):
                correlations[(*place, a, b)] = float(matrix[a, b])
    schema = {"layer": pl.Int64, "module": pl.String, "expert_a": pl.Int64, "expert_b": pl.Int64}
    keys = sorted(cosines.keys() | correlations.keys())
    rows = [(*key, cosines.get(key), correlations.get(key)) for key in keys]
    schema_all = {**schema, "b_cosine": pl.Float64, "gate_correlation": pl.Float64}
    return pl.DataFrame(rows, schema=schema_all, orient="row")


def _correlation(gates: NDArray[np.float32]) -> NDArray[np.float64]:
    """Correlations [N, N] of the experts' gates over documents; nan for a constant gate."""
    centered = gates.astype(np.float64) - gates.mean(axis=0, dtype=np.float64)
    norms = np.linalg.norm(centered, axis=0)
    norms[norms < 1e-6] = np.nan
    return np.asarray((centered.T @ centered) / np.outer(norms, norms))


def _association(
    document_gates: DocumentGates | None, documents: pl.DataFrame | None, n_permutations: int, random_state: int
) -> dict[str, Association]:
    if document_gates is None or document_gates.gates.shape[2] < 2:
        return {}
    if documents is None:
        raise ValueError("documents: expected document_id with cluster, source or task beside document_gates, got None")
    _require(documents, "documents", ("document_id",))
    ids = pl.DataFrame({"document_id": list(document_gates.document_ids)})
    known = ids.join(documents, on="document_id", how="left", maintain_order="left")
    found: dict[str, Association] = {}
    for kind in ("cluster", "source", "task"):
        if kind not in known.columns:
            continue
        rows = np.flatnonzero(known[kind].is_not_null().to_numpy())
        names, labels = np.unique(known[kind].to_numpy()[rows].astype(str), return_inverse=True)
        if len(names) > 1:
            gates = document_gates.gates[rows]
            found[kind] = gate_association(gates, labels, n_permutations=n_permutations, random_state=random_state)
    return found


def _association_table(found: Mapping[str, Association], document_gates: DocumentGates | None) -> pl.DataFrame:
    schema = {"layer": pl.Int64, "module": pl.String, "group_kind": pl.String}
    measures = ("nmi", "nmi_null", "variance_explained", "variance_null", "p_value")
    rows: list[tuple[object, ...]] = []
    for kind, result in found.items():
        rows.append((None, None, kind, *(getattr(result, measure) for measure in measures)))
        for m, (layer, module) in enumerate(document_gates.modules if document_gates else ()):
            of_module = result.modules[m]
            rows.append((layer, module, kind, *(getattr(of_module, measure) for measure in measures)))
    return pl.DataFrame(rows, schema={**schema, **dict.fromkeys(measures, pl.Float64)}, orient="row")
