"""Documents of one domain of the study, with clusters of their own."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from pipelines.store.artifacts import Artifact, Draft, source_version
from pipelines.store.io_manager import ArtifactStore
from pipelines.study.run_documents import Split, write_run_documents
from pipelines.training.recipe import BaseModel, Recipe

VERSION = source_version(
    "analysis.clusters.kmeans",
    "hydralora.data",
    "pipelines.training.adapters",
    "pipelines.study.run_documents",
    "pipelines.study.study_documents",
)


@dataclass(frozen=True)
class Corpus:
    """What the corpus job left: documents, and their features in the same order."""

    documents: Artifact
    features: Artifact

    def domain(self, sources: list[str]) -> tuple[pl.DataFrame, np.ndarray]:
        """Documents of some sources and their features.

        Raises:
            ValueError: a source that the corpus does not have.
        """
        documents = self.documents.read("documents")
        if missing := set(sources) - set(documents["source"].unique()):
            raise ValueError(f"Expected sources of the corpus, got {sorted(missing)}, which it does not have")
        chosen = documents["source"].is_in(sources).to_numpy()
        return documents.filter(chosen), np.ascontiguousarray(self.features.array("features")[chosen])


def study_documents(
    store: ArtifactStore,
    corpus: Corpus,
    sources: list[str],
    num_clusters: int,
    split: Split,
    recipe: Recipe,
    base_model: BaseModel,
) -> Artifact:
    """Tokens of a domain's documents, with the clusters that K-means finds in them."""

    def build(draft: Draft) -> None:
        documents, features = corpus.domain(sources)
        columns = ("document_id", "source", "task", "split", "prompt", "completion")
        labelled = documents.select(columns).with_columns(cluster=clusters(documents, features, num_clusters))
        write_run_documents(draft, labelled.lazy(), split, recipe, base_model)

    return store.build(
        "study_documents",
        build,
        code_version=VERSION,
        config={
            "sources": sources,
            "num_clusters": num_clusters,
            "validation": split.validation_per_source,
            "held_out": split.held_out_per_source,
            **recipe.text_identity(),
            **base_model.identity(),
        },
        inputs={"corpus_documents": corpus.documents, "document_features": corpus.features},
    )


def clusters(documents: pl.DataFrame, features: np.ndarray, num_clusters: int) -> pl.Series:
    """The cluster of each document; centres are those of the training documents."""
    from analysis.clusters.kmeans import assign, sweep_kmeans

    train = (documents["split"] == "train").to_numpy()
    sweep = sweep_kmeans(np.ascontiguousarray(features[train]), (num_clusters,))
    return pl.Series("cluster", assign(features, sweep.centers[0])[0])
