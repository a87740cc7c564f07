"""The number of clusters, chosen from the sweep."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import polars as pl
from pydantic import Field

from pipelines.corpus.features import training_documents, training_rows
from pipelines.corpus.tail import save_tail
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.configuration import LARGEST_SEED
from pipelines.store.thumbnails import write_thumbnail

if TYPE_CHECKING:
    from analysis.clusters.kmeans import ClusterSweep
    from analysis.clusters.tail import TailSplit

PLOTTED = ("num_clusters", "probability_of_one", "stability")


class ChoiceConfig(dg.Config):
    """How N is chosen from the sweep."""

    value: int | None = Field(None, ge=1)
    """Your own N, even against the evidence, which is still recorded."""
    merge: list[list[int]] = Field(default_factory=list)
    """Lists of clusters that become one: `[[0, 3]]`; needs `value`. N falls accordingly."""
    split: dict[str, int] = Field(default_factory=dict)
    """Clusters to split, each with its number of parts: `{"2": 3}`; needs `value`. N rises accordingly."""
    tail: bool | None = None
    """Small tasks with short answers become one more cluster, the last, if they are 5% of the documents or more. By
    default with joint features, unless `value` sets N."""
    random_state: int = Field(0, ge=0, le=LARGEST_SEED)

    def has_tail(self, kind: str) -> bool:
        """Whether a tail is looked for. A study saw it help joint features (docs/results/experts.md#the-tail)."""
        return self.tail if self.tail is not None else kind == "joint" and self.value is None


def _described(artifact: Artifact, cluster_sweep: Artifact) -> Description:
    choice = artifact.json("num_clusters")
    n, fitted = choice["value"], cluster_sweep.read("sweep")["n_clusters"].to_list()
    return Description(
        table="by_num_clusters",
        metadata={**{name: choice[name] for name in PLOTTED}, "reason": choice["reason"], "choice": choice},
        checks=[
            Check(
                "within_range",
                n in fitted,
                f"{n} is {'' if n in fitted else 'not '}among K = {fitted}",
                {"num_clusters": n},
            ),
            Check(
                "clear_structure",
                choice["structure"],
                choice["reason"],
                {"probability_of_one": choice["probability_of_one"]},
            ),
        ],
    )


@artifact_asset(
    group="clusters",
    kinds={"numpy"},
    describe=_described,
    blocking={"within_range": "The sweep fitted this number of clusters."},
    warnings={"clear_structure": "The corpus has clusters, rather than gradual topics or one task."},
)
def num_clusters(
    draft: Draft, config: ChoiceConfig, corpus_documents: Artifact, document_features: Artifact, cluster_sweep: Artifact
) -> None:
    """The number of clusters: the elbow of the SSE curve, with its stability and the reason in words.

    `centers` are those of the sweep, after the configuration's edits; with a tail, those of the other documents.
    """
    from analysis.clusters.choice.selection import select_num_clusters
    from analysis.clusters.edits import edited_centers
    from analysis.corpus.document_text import document_text
    from analysis.figures.clusters import elbow

    text = document_text(document_features.record["config"]["text"])
    rows, sweep = training_rows(corpus_documents, document_features), load_sweep(cluster_sweep)
    choice = select_num_clusters(
        rows,
        sweep,
        training_documents(corpus_documents, text),
        n_clusters=config.value,
        random_state=config.random_state,
    )
    centers = sweep.centers[sweep.index(choice.value)]
    answer = asdict(choice)
    if config.merge or config.split:
        split = {int(cluster): parts for cluster, parts in config.split.items()}
        centers = edited_centers(rows, centers, config.merge, split, config.random_state)
        edits = [f"{' and '.join(map(str, group))} are one" for group in config.merge]
        edits += [f"{cluster} is split into {parts}" for cluster, parts in split.items()]
        answer["reason"] += f" As configured, {', '.join(edits)}: {len(centers)} clusters."
    n_groups, answer["tail"] = len(centers), None
    if config.has_tail(document_features.record["config"]["kind"]):
        answers = training_documents(corpus_documents, pl.col("completion"))
        split_off = _without_tail(rows, answers, centers, sweep, cluster_sweep, config.random_state)
        centers = split_off.centers
        answer["reason"] += f" {split_off.reason}"
        if split_off.communities is not None:
            n_groups, answer["tail"] = n_groups + 1, split_off.facts
            save_tail(draft, split_off)
    draft.write_table("by_num_clusters", pl.DataFrame(answer.pop("table")))
    draft.write_array("centers", centers)
    draft.write_json("num_clusters", {"num_clusters": n_groups, **answer})
    write_thumbnail(draft, elbow(cluster_sweep.read("sweep"), asdict(choice) | {"num_clusters": choice.value}))


def _without_tail(
    rows: np.ndarray,
    answers: pl.Series,
    centers: np.ndarray,
    sweep: "ClusterSweep",
    cluster_sweep: Artifact,
    random_state: int,
) -> "TailSplit":
    from analysis.clusters.tail import answer_lengths, split_off_tail

    fitted = {"n_init": cluster_sweep.record["config"]["n_init"], "sample_weight": sweep.sample_weight}
    try:
        return split_off_tail(rows, answer_lengths(answers), centers, **fitted, random_state=random_state)
    except ValueError as error:
        raise dg.Failure(f"ops.num_clusters.config.tail: {error}.", allow_retries=False) from error


def load_sweep(artifact: Artifact) -> "ClusterSweep":
    """Load the sweep that `analysis.clusters.kmeans` computed."""
    from analysis.clusters.kmeans import ClusterSweep

    table = artifact.read("sweep")
    return ClusterSweep(
        n_clusters=tuple(table["n_clusters"].to_list()),
        inertia=table["inertia"].to_numpy(),
        centers=tuple(np.asarray(artifact.array(f"centers/{k}")) for k in table["n_clusters"]),
        labels=np.asarray(artifact.array("labels")),
        n_iter=tuple(table["n_iter"].to_list()),
        sample_weight=np.asarray(artifact.array("sample_weight")) if artifact.json("weighted") else None,
    )
