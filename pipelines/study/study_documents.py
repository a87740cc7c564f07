"""Documents of one domain of the study, with K-means clusters of this domain."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from pipelines.store.artifacts import Artifact, Draft, build_artifact
from pipelines.store.code.versions import code_version
from pipelines.store.io_manager import ArtifactStore
from pipelines.study.running.run_documents import SplitConfig, write_run_documents


@dataclass(frozen=True)
class Corpus:
    """Artifacts of the corpus job: documents, their features in the same order, and their tokens."""

    documents: Artifact
    features: Artifact
    tokens: Artifact

    def domain(self, sources: list[str]) -> tuple[pl.DataFrame, np.ndarray]:
        """The documents of some sources, and their features [n, n_components].

        Raises:
            ValueError: the corpus does not have one of the sources.
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
    split: SplitConfig,
) -> Artifact:
    """Tokens of a domain's documents, with their K-means clusters."""

    def build(draft: Draft) -> None:
        documents, features = corpus.domain(sources)
        columns = ("document_id", "source", "task", "split")
        labelled = documents.select(columns).with_columns(cluster=clusters(documents, features, num_clusters))
        write_run_documents(draft, corpus.tokens, labelled.lazy(), split)

    return build_artifact(
        store.path,
        "study_documents",
        build=build,
        code_version=code_version(__name__),
        config={
            "sources": sources,
            "num_clusters": num_clusters,
            "validation": split.validation_documents_per_source,
            "held_out": split.held_out_documents_per_source,
        },
        inputs={
            "corpus_documents": corpus.documents,
            "document_features": corpus.features,
            "tokenised_documents": corpus.tokens,
        },
    )


def clusters(documents: pl.DataFrame, features: np.ndarray, num_clusters: int) -> pl.Series:
    """The cluster of each document. The centres are fitted on the training documents."""
    from analysis.clusters.kmeans import assign, sweep_kmeans

    train = (documents["split"] == "train").to_numpy()
    sweep = sweep_kmeans(np.ascontiguousarray(features[train]), (num_clusters,))
    return pl.Series("cluster", assign(features, sweep.centers[0])[0])
