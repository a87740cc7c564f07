"""From vectors to N: the sweep over K, the choice, and the clusters at the chosen K."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import polars as pl

from pipelines.store.artifacts import Artifact, Draft, source_version
from pipelines.store.assets import Check, artifact_asset, markdown_table, materialized, write_thumbnail
from pipelines.store.io_manager import ArtifactStore

if TYPE_CHECKING:
    from analysis.clusters.corpus_model import AssignedBlock
    from analysis.clusters.kmeans import ClusterSweep

SWEEP_VERSION = source_version(
    "analysis.clusters.kmeans", "analysis.clusters._kmeans_kernels", "analysis.clusters.selection"
)
CHOICE_VERSION = source_version(
    "analysis.clusters._kmeans_kernels",
    "analysis.clusters.kmeans",
    "analysis.features.lsa",
    "analysis.clusters.elbow_rules",
    "analysis.clusters.selection",
    "analysis.clusters.stability",
    "analysis.clusters.structure",
    "analysis.text.tfidf",
)
EXCERPT = 400
LABELS_VERSION = source_version(
    "analysis.clusters.corpus_model",
    "analysis.clusters.drift",
    "analysis.features.vectoriser",
    "analysis.clusters.heterogeneity",
    "analysis.clusters.interpretation",
)


class SweepConfig(dg.Config):
    """The range of K and how hard to look for each K's best clustering."""

    max_clusters: int = 20
    n_init: int = 4
    balance_sources: bool = True
    """Where the largest source has more than five times the documents of the smallest, each counts at most as much."""
    random_state: int = 0


class ChoiceConfig(dg.Config):
    """How N is read off the sweep."""

    rule: str = "l_method"
    value: int | None = None
    """Your own N, even against the evidence, which is still recorded."""
    random_state: int = 0


class LabelsConfig(dg.Config):
    """What is said about each cluster."""

    top_terms: int = 12
    examples: int = 5
    """Representative, borderline and outlying documents of each cluster."""
    random_state: int = 0


@artifact_asset(
    group="clusters",
    version=SWEEP_VERSION,
    kinds={"numpy"},
    blocking=("sse_does_not_rise",),
)
def cluster_sweep(
    config: SweepConfig, store: dg.ResourceParam[ArtifactStore], corpus_documents: Artifact, document_features: Artifact
) -> dg.MaterializeResult:
    """K-means of the training documents for every K from 1 up, with the sum of squared errors (SSE) of each."""

    def build(draft: Draft) -> None:
        from analysis.clusters.kmeans import sweep_kmeans
        from analysis.clusters.selection import source_weights

        features = training_rows(corpus_documents, document_features)
        sources = training_documents(corpus_documents, pl.col("source"))
        weights = source_weights(sources) if config.balance_sources else None
        ks = range(1, config.max_clusters + 1)
        sweep = sweep_kmeans(
            features, ks, n_init=config.n_init, sample_weight=weights, random_state=config.random_state
        )
        draft.write_json("weighted", weights is not None)
        if weights is not None:
            draft.write_array("sample_weight", weights)
        draft.write_table(
            "sweep", pl.DataFrame({"n_clusters": sweep.n_clusters, "inertia": sweep.inertia, "n_iter": sweep.n_iter})
        )
        draft.write_array("labels", np.asarray(sweep.labels))
        for k, centers in zip(sweep.n_clusters, sweep.centers, strict=True):
            draft.write_array(f"centers/{k}", centers)

    artifact = store.build(
        "cluster_sweep",
        build,
        code_version=SWEEP_VERSION,
        config=config.model_dump(),
        inputs={"corpus_documents": corpus_documents, "document_features": document_features},
    )
    sweep = artifact.read("sweep")
    falls = bool((sweep["inertia"].diff().drop_nulls() <= 1e-6 * sweep["inertia"][0]).all())
    return materialized(
        artifact,
        table="sweep",
        metadata={"curve": markdown_table(sweep, rows=len(sweep))},
        checks=[Check("sse_does_not_rise", falls, "SSE does not rise with K")],
    )


def training_documents(corpus_documents: Artifact, column: pl.Expr) -> pl.Series:
    """A column of the training documents."""
    return corpus_documents.scan("documents").filter(pl.col("split") == "train").select(column).collect().to_series()


def training_rows(corpus_documents: Artifact, document_features: Artifact) -> np.ndarray:
    """Features of the training documents, [n_train, n_components]; held-out documents never shape the clusters."""
    is_train = corpus_documents.scan("documents").select(pl.col("split") == "train").collect().to_series().to_numpy()
    return np.ascontiguousarray(document_features.array("features")[is_train])


@artifact_asset(
    group="clusters",
    version=CHOICE_VERSION,
    kinds={"numpy"},
    blocking=("within_range",),
    warnings=("clear_structure",),
)
def num_experts(
    config: ChoiceConfig,
    store: dg.ResourceParam[ArtifactStore],
    corpus_documents: Artifact,
    document_features: Artifact,
    cluster_sweep: Artifact,
) -> dg.MaterializeResult:
    """N, the number of experts: the elbow of the SSE curve, how stable it is, and the reason in words."""

    def build(draft: Draft) -> None:
        from analysis.clusters.selection import select_num_clusters
        from analysis.corpus.document_text import document_text
        from analysis.figures.clusters import elbow

        text = document_text(document_features.record["config"]["text"])
        try:
            choice = select_num_clusters(
                training_rows(corpus_documents, document_features),
                load_sweep(cluster_sweep),
                training_documents(corpus_documents, text),
                rule="manual" if config.value is not None else config.rule,
                n_clusters=config.value,
                random_state=config.random_state,
            )
        except ValueError as error:
            raise dg.Failure(f"num_experts: {error}", allow_retries=False) from error
        answer = asdict(choice)
        draft.write_table("by_num_clusters", pl.DataFrame(answer.pop("table")))
        draft.write_json("num_experts", {"num_experts": choice.value, **answer})
        write_thumbnail(draft, elbow(cluster_sweep.read("sweep"), asdict(choice) | {"num_experts": choice.value}))

    artifact = store.build(
        "num_experts",
        build,
        code_version=CHOICE_VERSION,
        config=config.model_dump(),
        inputs={
            "corpus_documents": corpus_documents,
            "document_features": document_features,
            "cluster_sweep": cluster_sweep,
        },
    )
    answer = artifact.json("num_experts")
    fitted = cluster_sweep.read("sweep")["n_clusters"].to_list()
    return materialized(
        artifact,
        table="by_num_clusters",
        metadata={"num_experts": answer["num_experts"], "reason": answer["reason"], "choice": answer},
        checks=[
            Check("within_range", answer["num_experts"] in fitted, f"{answer['num_experts']} is among K = {fitted}"),
            Check("clear_structure", answer["structure"], answer["reason"], warning=True),
        ],
    )


@artifact_asset(
    group="clusters",
    version=LABELS_VERSION,
    kinds={"polars"},
    blocking=("every_cluster_populated",),
)
def cluster_labels(
    config: LabelsConfig,
    store: dg.ResourceParam[ArtifactStore],
    corpus_documents: Artifact,
    document_features: Artifact,
    cluster_sweep: Artifact,
    num_experts: Artifact,
) -> dg.MaterializeResult:
    """The cluster of every document at N, what each is about, and the corpus model that assigns new documents."""

    def build(draft: Draft) -> None:
        from analysis.clusters.corpus_model import CorpusModel
        from analysis.clusters.drift import REFERENCE, summarise_corpus
        from analysis.clusters.heterogeneity import measure_heterogeneity
        from analysis.clusters.interpretation import document_positions, merge_order
        from analysis.features.loading import load_features
        from analysis.figures.clusters import composition

        n_clusters = num_experts.json("num_experts")["num_experts"]
        centers = cluster_sweep.array(f"centers/{n_clusters}")
        features = document_features.array("features")
        text = document_features.record["config"]["text"]
        model = CorpusModel(load_features(document_features.path("vectoriser")), centers, text)
        model.save(draft.folder / "corpus_model")
        positions = document_positions(features, centers)
        documents = corpus_documents.read("documents")
        is_held_out = (documents["split"] == "test").to_numpy()
        reference = summarise_corpus(assigned_block(positions, document_features), is_held_out, n_clusters)
        reference.save(draft.folder / "corpus_model" / REFERENCE)
        draft.write_table("labels", positions.drop("row").insert_column(0, documents["document_id"]))
        for name, table in described_clusters(documents, text, positions, config).items():
            draft.write_table(name, table)
        write_thumbnail(draft, composition(pl.read_parquet(draft.folder / "composition.parquet")))
        draft.write_table("mergers", merge_order(centers, np.bincount(positions["cluster"], minlength=n_clusters)))
        heterogeneity = measure_heterogeneity(
            training_rows(corpus_documents, document_features), random_state=config.random_state
        )
        draft.write_json("heterogeneity", asdict(heterogeneity))
        draft.write_json("agreement", agreement_with_labels(documents, positions))

    artifact = store.build(
        "cluster_labels",
        build,
        code_version=LABELS_VERSION,
        config=config.model_dump(),
        inputs={
            "corpus_documents": corpus_documents,
            "document_features": document_features,
            "cluster_sweep": cluster_sweep,
            "num_experts": num_experts,
        },
    )
    n_clusters = num_experts.json("num_experts")["num_experts"]
    sizes = artifact.scan("labels").group_by("cluster").len("documents").sort("cluster").collect()
    return materialized(
        artifact,
        table="labels",
        metadata={
            "sizes": markdown_table(sizes),
            "top_terms": markdown_table(artifact.read("clusters"), rows=50),
            "agreement": artifact.json("agreement"),
            "heterogeneity": artifact.json("heterogeneity"),
        },
        checks=[
            Check(
                "every_cluster_populated",
                sizes["cluster"].to_list() == list(range(n_clusters)),
                f"{len(sizes)} of {n_clusters} clusters have documents",
            )
        ],
    )


def assigned_block(positions: pl.DataFrame, document_features: Artifact) -> "AssignedBlock":
    """The corpus's documents as the corpus model would assign them, without reading them again."""
    from analysis.clusters.corpus_model import AssignedBlock
    from analysis.features.vectoriser import TextStatistics

    return AssignedBlock(
        labels=positions["cluster"].to_numpy(),
        squared_distances=np.square(positions["distance"].to_numpy()),
        explained=document_features.array("explained"),
        statistics=TextStatistics(**document_features.json("statistics")),
    )


def load_sweep(artifact: Artifact) -> "ClusterSweep":
    """The sweep as `analysis.clusters.kmeans` returned it."""
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


def described_clusters(
    documents: pl.DataFrame, text: str, positions: pl.DataFrame, config: LabelsConfig
) -> dict[str, pl.DataFrame]:
    """What is in each cluster.

    `clusters`: cluster, n_documents, top_terms; `examples`: cluster, kind (representative, borderline, outlier), rank,
    document_id, source, excerpt; `composition` and `tasks`: cluster, source or task, n_documents and shares.
    """
    from analysis.clusters.interpretation import cross_table, examples, top_terms
    from analysis.corpus.document_text import document_text

    labels = positions["cluster"].to_numpy()
    terms = top_terms(documents.select(text=document_text(text))["text"], labels, config.top_terms)
    terms = terms.group_by("cluster").agg(top_terms=pl.col("term").sort_by("rank"))
    sizes = positions.group_by("cluster").agg(n_documents=pl.len())
    clusters = sizes.join(terms, on="cluster", how="left").with_columns(pl.col("top_terms").fill_null([]))
    excerpts = documents.select(
        "document_id", "source", excerpt=pl.concat_str("prompt", "completion", separator="\n").str.slice(0, EXCERPT)
    ).with_row_index("row")
    shown = examples(positions, config.examples).with_columns(pl.col("row").cast(pl.UInt32))
    return {
        "clusters": clusters.sort("cluster"),
        "examples": shown.join(excerpts, on="row", how="left", maintain_order="left").drop("row"),
        **{
            name: cross_table(labels, documents[column]).rename({"group": column, "documents": "n_documents"})
            for name, column in (("composition", "source"), ("tasks", "task"))
        },
    }


def agreement_with_labels(documents: pl.DataFrame, positions: pl.DataFrame) -> dict[str, dict[str, float]]:
    """NMI and ARI of the clusters with the sources and, where documents have them, the tasks."""
    from analysis.clusters.interpretation import agreement

    columns = [column for column in ("source", "task") if documents[column].null_count() < len(documents)]
    return {column: asdict(agreement(positions["cluster"].to_numpy(), documents[column])) for column in columns}
