"""Sections about what was trained: losses, A and B, gates and costs."""

from collections.abc import Mapping

import polars as pl

from analysis.adapters.cross_experts import cross_experts
from analysis.adapters.observation_two import SAME_SEED
from analysis.adapters.parts import OUTSIDE
from analysis.figures import Picture, breakdown, routing, training
from analysis.figures.palette import method_numbers
from analysis.report.inputs import ReportInputs
from analysis.report.section import Section, Table, table
from analysis.report.words import METHODS


def numbers_of(inputs: ReportInputs) -> Mapping[str, int]:
    """The colour and shape of each method, the same in every figure."""
    tables = (inputs.curves, inputs.evaluation, inputs.parameters, inputs.energy)
    others = [name for frame in tables if frame is not None for name in frame["method"].unique(maintain_order=True)]
    return method_numbers([inputs.method, inputs.matched_baseline, *others])


def methods_in_words(inputs: ReportInputs) -> tuple[tuple[str, str], ...]:
    """What the methods with a held-out loss are, where the page knows it."""
    methods = () if inputs.evaluation is None else inputs.evaluation["method"].unique(maintain_order=True)
    return tuple((name, METHODS[name]) for name in methods if name in METHODS)


def training_curves(inputs: ReportInputs) -> Section:
    """Section: training curves."""
    if inputs.curves is None:
        return Section("training", "Training", missing="This run has no training curves.")
    last = inputs.curves.sort("step").group_by("method", "seed", maintain_order=True).last()
    return Section(
        "training",
        "Training",
        "",
        (training.curves(inputs.curves, numbers_of(inputs)),),
        (table(last, "Last step of each run"),),
    )


def comparison(inputs: ReportInputs) -> Section:
    """Section: held-out losses of all methods."""
    if inputs.evaluation is None:
        return Section("methods", "Methods compared", missing="This run has no evaluation.")
    present = set(inputs.evaluation["group_kind"].to_list())
    kinds = [kind for kind in ("source", "cluster") if kind in present]
    if _clusters_tell_nothing_more(inputs.evaluation):
        kinds = kinds[:1]
    tables = [table(inputs.evaluation, "Held-out losses")]
    if inputs.paired is not None:
        tables.insert(0, table(inputs.paired, "Paired differences of losses (negative is better), 95% intervals"))
    lead = (
        "Separate intervals say how well each loss is known; whether two methods differ is said by their paired "
        "difference, as in the verdict."
    )
    pictures = tuple(training.losses(inputs.evaluation, kind, numbers_of(inputs)) for kind in kinds)
    return Section("methods", "Methods compared", lead, pictures, tuple(tables), words=methods_in_words(inputs))


def _clusters_tell_nothing_more(evaluation: pl.DataFrame) -> bool:
    """Whether two charts would show the same: there is one cluster, or each cluster has the losses of a source."""
    losses = {
        kind: set(
            evaluation.filter(pl.col("group_kind") == kind).select("method", "seed", pl.col("loss").round(9)).rows()
        )
        for kind in ("source", "cluster")
    }
    one = evaluation.filter(pl.col("group_kind") == "cluster")["group"].n_unique() == 1
    return one or losses["cluster"] == losses["source"]


def parameter_breakdown(inputs: ReportInputs) -> Section:
    """Section: A and B of component adapters, with controls."""
    title = "Breakdown of A and B"
    if inputs.breakdown is None:
        return Section("breakdown", title, missing="This run has no parameter breakdown.")
    found = inputs.breakdown
    pictures: list[Picture] = []
    for method in found.embedding["method"].unique(maintain_order=True).to_list():
        pictures.append(breakdown.submodule_map(found.embedding, method))
        drawn = found.embedding.filter(pl.col("method") == method)["panel"]
        pictures += [breakdown.layer_maps(found.embedding, method, matrix) for matrix in ("A", "B") if matrix in drawn]
    if len(found.pairs):
        pictures.insert(0, breakdown.similarity_by_relation(found.pairs))
    if SAME_SEED in found.pairs["relation"]:
        pictures.insert(1, breakdown.similarity_by_layer(found.pairs))
    tables = (
        table(_relation_means(found.pairs), "Similarity of heads by relation, mean over places", folded=False),
        table(found.separability, "Can heads be told apart? Silhouette and nearest neighbours, with permutation tests"),
        table(
            found.identification,
            "Is a head recognised by the most similar head of another seed? Chance is a guess among the parts",
        ),
        table(_layer_means(found.pairs), "Similarity by layer and module"),
        table(_sizes(found.submodules), "Norm, effective rank and distance from the start"),
    )
    return Section("breakdown", title, found.observation.reason, tuple(pictures), tables)


_MEASURES = ("subspace_similarity", "mean_angle", "largest_angle", "cka", "cosine", "update_cosine", "chance")


def _relation_means(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.group_by("relation", "matrix", maintain_order=True).agg(
        pl.col(*_MEASURES).fill_nan(None).mean().round(3)
    )


def _layer_means(pairs: pl.DataFrame) -> pl.DataFrame:
    keys = ("relation", "matrix", "layer", "module")
    measures = ("subspace_similarity", "mean_angle", "cka", "update_cosine")
    means = pairs.group_by(keys).agg(pl.col(measures).fill_nan(None).mean().round(3)).sort(keys)
    return means.with_columns(pl.col("layer").replace(OUTSIDE, None))


def _sizes(submodules: pl.DataFrame) -> pl.DataFrame:
    keys = ("head", "matrix")
    return submodules.group_by(keys, maintain_order=True).agg(pl.col("norm", "effective_rank", "from_start").mean())


def gates(inputs: ReportInputs) -> Section:
    """Section: routing, alarms first. The template draws the coloured tokens."""
    if inputs.routing is None:
        return Section("routing", "Routing", missing="This run has no routing analysis.")
    found = inputs.routing
    if inputs.grouping is not None:
        return _given_gates(inputs)
    present = set(found.gates["group_kind"].to_list())
    pictures = [routing.entropy_and_usage(found.entropy, found.usage)]
    pictures += [routing.gates_by_layer(found.gates, kind) for kind in ("cluster", "source") if kind in present]
    if len(found.association.drop_nulls("layer")):
        pictures.append(routing.association(found.association))
    if found.similarity["b_cosine"].drop_nulls().len():
        pictures.append(routing.expert_similarity(found.similarity))
    tables = (
        table(
            found.association.filter(pl.col("layer").is_null()).drop("layer", "module"), "Do gates follow the corpus?"
        ),
        table(
            found.experts.with_columns(pl.col("top_terms").list.head(6).list.join(", ")), "Experts and their clusters"
        ),
        table(found.similarity, "Similarity of experts"),
    )
    notices = tuple((alarm.level, alarm.text) for alarm in found.alarms) or (("good", "No alarms."),)
    return Section("routing", "Routing", found.reason, tuple(pictures), tables, notices)


def _given_gates(inputs: ReportInputs) -> Section:
    """Given gates follow the groups by construction, so only the experts are shown, not the gates."""
    assert inputs.routing is not None
    assert inputs.grouping is not None
    found, groups = inputs.routing, [str(group) for group in inputs.grouping["groups"]]
    pictures: list[Picture] = []
    tables: list[Table] = []
    crossed = None if inputs.cross_losses is None else cross_experts(inputs.cross_losses)
    if crossed is not None:
        pictures.append(routing.cross_losses(crossed.matrix))
        tables.append(table(crossed.by_group, "Each group's own expert and the others", folded=False))
    if found.similarity["b_cosine"].drop_nulls().len():
        pictures.append(routing.expert_similarity(found.similarity, groups))
        tables.append(table(found.similarity, "Similarity of experts"))
    lead = (
        f"Gates are given: a whole document goes to the expert of its {inputs.grouping['group_kind']}, in every layer. "
        "So there is no router to look at. What counts is whether the own expert is the best one."
    )
    notices = tuple((alarm.level, alarm.text) for alarm in found.alarms)
    return Section("routing", "Experts", lead, tuple(pictures), tuple(tables), notices)


def costs(inputs: ReportInputs) -> Section:
    """Section: energy and time."""
    title = "Energy and time"
    if inputs.energy is None:
        return Section("energy", title, missing="This run has no times.")
    measured = inputs.energy["energy_kwh"].is_not_null().any()
    lead = "" if measured else "Energy was not measured; times are wall times of training. "
    if inputs.energy["remembered_batches"].sum():
        lead += (
            "They do not compare methods: a later one skips the frozen lower layers for batches that an earlier one "
            "has run (remembered batches). The job compare can measure the costs of each method alone."
        )
    return Section(
        "energy",
        title,
        lead.strip(),
        (training.energy(inputs.energy, numbers_of(inputs)),),
        (table(inputs.energy, "All runs"),),
    )


def parameters(inputs: ReportInputs) -> Section:
    """Section: trainable parameters by part."""
    if inputs.parameters is None:
        return Section("parameters", "Parameters", missing="This run has no table of parameters.")
    pictures = (training.parameters(inputs.parameters),)
    return Section("parameters", "Parameters", "", pictures, (table(inputs.parameters, "By part"),))
