"""Which groups of documents get one expert each: sources, tasks or clusters of the corpus."""

from dataclasses import dataclass, replace

import polars as pl

from analysis.experts.agreement import Agreement
from analysis.experts.prompt_classifier import PromptClassifier

GROUPINGS = ("auto", "sources", "tasks", "clusters")
LEAST_FOUND = 0.95
"""Share of prompts whose cluster must be found. Below it experts lost to a LoRA in all of four groupings, from it on in
none of twelve, averaged over corpora (docs/results/experts.md#prompts-must-tell-the-groups)."""


@dataclass(frozen=True)
class Grouping:
    """The groups that have experts, and why these were chosen.

    Attributes:
        kind: "source", "task" or "cluster": a column of the documents.
        groups: the group of each expert; entry i belongs to expert i.
        classifier: predicts the group from the prompt. None for clusters, which the corpus model assigns.
    """

    kind: str
    groups: tuple[str, ...]
    reason: str
    classifier: PromptClassifier | None = None


def choose_grouping(
    documents: pl.DataFrame,
    n_clusters: int,
    *,
    grouping: str = "auto",
    fixed_number: bool = False,
    min_accuracy: float = 0.98,
    max_experts: int = 16,
    random_state: int = 0,
) -> Grouping:
    """Choose sources, else tasks, else clusters. A kind is rejected if prompts clearly do not identify its groups.

    Measured on six corpora (docs/results/experts.md): one expert per source beats a LoRA of the same size if the source
    is predicted correctly for 98% of the prompts, but not at 92%. Accuracy is estimated by cross-validation on the
    training prompts. Sources are rejected only if the whole 95% interval of the accuracy lies below `min_accuracy`.

    A corpus of one cluster gets one expert, which is plain LoRA. The exception: prompts identify its sources for
    certain (the whole interval is at or above `min_accuracy`). Such sources are parts, even if each is too varied to
    show as a cluster.

    Args:
        documents: training documents with the columns prompt, source and task.
        grouping: one of `GROUPINGS`. Any value except "auto" is obeyed if possible.
        fixed_number: whether the user asked for this N. Sources or tasks are then used only if there are exactly as
            many.
        min_accuracy: smallest share of prompts whose group must be predicted correctly.
        max_experts: largest number of groups that may have one expert each.
        random_state: seed of the classifier.

    Raises:
        ValueError: the grouping is unknown, or the documents do not have it.
    """
    if grouping not in GROUPINGS:
        raise ValueError(f"grouping: expected one of {', '.join(GROUPINGS)}, got {grouping!r}")
    if grouping in ("sources", "tasks"):
        required = n_clusters if fixed_number else None
        asked = _try(documents, grouping.removesuffix("s"), 0.0, len(documents), required, random_state)
        if isinstance(asked, str):
            raise ValueError(f"grouping {grouping!r}: {asked}; take clusters or auto")
        return asked
    clusters = tuple(map(str, range(n_clusters)))
    if grouping == "clusters":
        return Grouping("cluster", clusters, f"One expert for each of {n_clusters} clusters, as asked for.")
    if n_clusters == 1:
        return _of_one_cluster(documents, fixed_number, min_accuracy, max_experts, random_state)
    objections = []
    for kind in ("source", "task"):
        found = _try(documents, kind, min_accuracy, max_experts, n_clusters if fixed_number else None, random_state)
        if isinstance(found, Grouping):
            return found
        objections.append(found)
    return Grouping("cluster", clusters, f"One expert for each of {n_clusters} clusters: {'; '.join(objections)}.")


def _of_one_cluster(
    documents: pl.DataFrame, fixed_number: bool, min_accuracy: float, max_experts: int, random_state: int
) -> Grouping:
    """One expert, unless prompts identify the sources for certain."""
    one = Grouping("cluster", ("0",), "The corpus is one cluster, so there is one expert: plain LoRA.")
    if fixed_number:
        return one
    found = _try(documents, "source", min_accuracy, max_experts, None, random_state)
    if isinstance(found, str) or found.classifier is None:
        return one
    told = found.classifier.validation_
    if not told.n_prompts or told.interval[0] < min_accuracy:
        evidence = evidence_of("source", told)
        return replace(one, reason=f"{one.reason} Sources are not told surely enough to get one each: {evidence}.")
    return replace(found, reason=f"{found.reason} Words alone show no clusters, but what is told this well is a part.")


def _try(
    documents: pl.DataFrame,
    kind: str,
    min_accuracy: float,
    max_experts: int,
    required_number: int | None,
    random_state: int,
) -> Grouping | str:
    """One expert for each group of this kind, or the objection against it."""
    objection = _objection(documents[kind], max_experts, required_number)
    if objection:
        return objection
    classifier = PromptClassifier(random_state=random_state).fit(documents["prompt"], documents[kind])
    found = classifier.validation_
    evidence = evidence_of(kind, found)
    if found.interval[1] < min_accuracy:
        return f"{evidence}, which is less than {min_accuracy:.1%}"
    reason = f"One expert for each of {classifier.n_groups} {kind}s: {evidence}."
    if found.interval[0] < min_accuracy:
        reason += f" That is not distinguishable from the limit of {min_accuracy:.1%}: {kind}s kept."
    return Grouping(kind, classifier.classes_, reason, classifier)


def clusters_problem(found: Agreement) -> str:
    """Why clusters cannot have experts: prompts clearly do not identify them. Empty if they may."""
    if not found.n_prompts or found.interval[1] >= LEAST_FOUND:
        return ""
    return (
        f"{evidence_of('cluster', found)}, which is less than {LEAST_FOUND:.0%}. Such experts lost to a plain LoRA on "
        "each corpus that was measured"
    )


def evidence_of(kind: str, found: Agreement) -> str:
    """A phrase that says how often the group is predicted correctly from the prompt."""
    if not found.n_prompts:
        return f"there are too few prompts to say how often the {kind} is found"
    low, high = found.interval
    return (
        f"the {kind} of {found.accuracy:.1%} of {found.n_prompts} training prompts is found "
        f"(cross-validated; 95% interval {low:.1%} to {high:.1%})"
    )


def _objection(groups: pl.Series, max_experts: int, required_number: int | None) -> str:
    """An objection to one expert per group that can be found without a classifier; empty if there is none."""
    kind, n_groups = groups.name, groups.n_unique()
    if groups.null_count():
        return f"{groups.null_count()} documents have no {kind}"
    if n_groups < 2:
        return f"there is one {kind}"
    if n_groups > max_experts:
        return f"{n_groups} {kind}s are more than {max_experts}"
    if required_number not in (None, n_groups):
        return f"{n_groups} {kind}s are not the {required_number} experts asked for"
    return ""
