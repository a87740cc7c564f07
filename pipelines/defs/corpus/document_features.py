"""Documents as vectors."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import polars as pl

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset

if TYPE_CHECKING:
    from analysis.features.embeddings import SentenceEmbeddings
    from analysis.features.lsa import TfidfLsa


class FeaturesConfig(dg.Config):
    """How documents become vectors."""

    kind: str = "tfidf"
    """`tfidf` (TF-IDF, truncated SVD, L2 norm) or `embeddings` (a sentence-transformers model)."""
    text: str = "prompt"
    """`prompt`, `completion` or `both`; a served model has only the prompt to choose an expert by."""
    n_components: int = 32
    max_features: int = 20_000
    tokens: str = "unicode"
    """What counts as a word: `unicode`, for every script, or `scikit-learn`, its default pattern; equal on ASCII."""
    sample_size: int = 10_000
    embedding_model: str | None = None
    """Hub id or folder; the packaged MiniLM when left out."""
    random_state: int = 0


def described(artifact: Artifact, corpus_documents: Artifact) -> Description:
    """What Dagster shows of this artifact, and its checks."""
    features = artifact.array("features")
    documents = corpus_documents.scan("documents").select(pl.len()).collect().item()
    zero_rows = int((~features.any(axis=1)).sum())
    return Description(
        metadata={"dimensions": features.shape[1], "zero_rows": zero_rows, **artifact.json("statistics")},
        checks=[
            Check("one_row_per_document", len(features) == documents, f"{len(features)} rows, {documents} documents"),
            Check("finite", bool(np.isfinite(features).all()), "every value is finite"),
            Check("no_zero_rows", zero_rows == 0, f"{zero_rows} documents have no known term"),
        ],
    )


@artifact_asset(
    group="corpus",
    kinds={"polars", "numpy"},
    describe=described,
    blocking={
        "one_row_per_document": "There is a row of features for each document.",
        "finite": "Every feature is a finite number.",
    },
    warnings={"no_zero_rows": "Every document has a term of the vocabulary."},
)
def document_features(draft: Draft, config: FeaturesConfig, corpus_documents: Artifact) -> None:
    """TF-IDF of every document, projected onto its leading singular directions (LSA), rows of length one.

    The vectoriser is learnt from a sample of the training documents and saved, so that documents that arrive later
    get the same vectors.
    """
    from analysis.corpus.document_text import document_text
    from analysis.features.vectoriser import TextStatistics

    documents = corpus_documents.scan("documents").select("split", text=document_text(config.text)).collect()
    vectoriser = _vectoriser(config)
    try:
        vectoriser.fit(documents.filter(pl.col("split") == "train")["text"])
    except ValueError as error:
        raise dg.Failure(f"document_features: {error}", allow_retries=False) from None
    vectoriser.save(draft.folder / "vectoriser")
    blocks = list(vectoriser.stream([documents["text"]]))
    draft.write_array("features", np.concatenate([block.features for block in blocks]))
    draft.write_array("explained", np.concatenate([block.explained for block in blocks]))
    draft.write_json("statistics", asdict(sum((block.statistics for block in blocks), TextStatistics())))


def _vectoriser(config: FeaturesConfig) -> "TfidfLsa | SentenceEmbeddings":
    """Unfitted features of the configured kind."""
    if config.kind == "tfidf":
        from analysis.features.lsa import TfidfLsa
        from analysis.text.characters import checked_tokens

        try:
            tokens = checked_tokens(config.tokens)
        except ValueError as error:
            raise dg.Failure(f"document_features: {error}", allow_retries=False) from error
        return TfidfLsa(
            config.n_components,
            max_features=config.max_features,
            tokens=tokens,
            sample_size=config.sample_size,
            random_state=config.random_state,
        )
    if config.kind == "embeddings":
        from analysis.features.embeddings import SentenceEmbeddings

        return SentenceEmbeddings(config.embedding_model)
    raise dg.Failure(
        f"document_features: expected kind `tfidf` or `embeddings`, got {config.kind!r}", allow_retries=False
    )
