"""Which groups of documents get one expert each: sources, tasks or clusters of the corpus."""

from dataclasses import dataclass

import polars as pl

from analysis.experts.prompt_classifier import PromptClassifier

GROUPINGS = ("auto", "sources", "tasks", "clusters")


@dataclass(frozen=True)
class Grouping:
    """The groups that have experts, and why these were chosen.

    Attributes:
        kind: "source", "task" or "cluster": a column of the documents.
        groups: the group of each expert; entry i belongs to expert i.
        reason: why these groups were chosen, in words.
        classifier: predicts the group from the prompt. None for clusters, which the corpus model assigns.
    """

    kind: str
    groups: tuple[str, ...]
    reason: str
    classifier: PromptClassifier | None = None


def choose_grouping(
    documents: pl.DataFrame,
    n_groups: int,
    *,
    grouping: str = "auto",
    fixed_number: bool = False,
    min_accuracy: float = 0.98,
    max_experts: int = 16,
    random_state: int = 0,
) -> Grouping:
    """Choose sources if prompts identify them, else tasks if prompts identify them, else clusters.

    Measured on six corpora (docs/results/experts.md): one expert per source beats a LoRA of the same size if the source
    is predicted correctly for 98% of the prompts, but not at 92%. Experts for clusters of prompts are on a par with
    that LoRA. A corpus of one cluster is homogeneous and gets one expert, which is plain LoRA.

    Args:
        documents: training documents with the columns prompt, source and task.
        n_groups: number of clusters at the elbow.
        grouping: one of `GROUPINGS`. Any value but "auto" is followed if possible.
        fixed_number: whether the user asked for this N. Sources or tasks are then used only if there are exactly as
            many.
        min_accuracy: smallest share of held-out prompts whose group must be predicted correctly.
        max_experts: largest number of groups that may have one expert each.
        random_state: seed of the classifier.

    Raises:
        ValueError: the grouping is unknown, or the documents do not have it.
    """
    if grouping not in GROUPINGS:
        raise ValueError(f"grouping: expected one of {', '.join(GROUPINGS)}, got {grouping!r}")
    if grouping in ("sources", "tasks"):
        asked = _try(documents, grouping.removesuffix("s"), 0.0, len(documents), None, random_state)
        if isinstance(asked, str):
            raise ValueError(f"grouping {grouping!r}: {asked}; take clusters or auto")
        return asked
    clusters = tuple(map(str, range(n_groups)))
    if grouping == "clusters":
        return Grouping("cluster", clusters, f"One expert for each of {n_groups} clusters, as asked for.")
    if n_groups == 1:
        return Grouping("cluster", clusters, "The corpus is one cluster, so there is one expert: plain LoRA.")
    objections = []
    for kind in ("source", "task"):
        found = _try(documents, kind, min_accuracy, max_experts, n_groups if fixed_number else None, random_state)
        if isinstance(found, Grouping):
            return found
        objections.append(found)
    return Grouping("cluster", clusters, f"One expert for each of {n_groups} clusters: {'; '.join(objections)}.")


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
    accuracy = classifier.validation_.accuracy
    evidence = f"the {kind} is found for {accuracy:.1%} of held-out prompts"
    if not accuracy >= min_accuracy and min_accuracy > 0:
        return f"{evidence}, but at least {min_accuracy:.1%} are needed"
    reason = f"One expert for each of {classifier.n_groups} {kind}s: {evidence}."
    return Grouping(kind, classifier.classes_, reason, classifier)


def _objection(groups: pl.Series, max_experts: int, required_number: int | None) -> str:
    """The objection against one expert per group that needs no classifier to find; empty if there is none."""
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
