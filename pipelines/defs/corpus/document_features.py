"""Documents as feature vectors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
import numpy as np
import polars as pl
from pydantic import Field

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.configuration import LARGEST_SEED
from pipelines.training.prompt_states import prompt_encoder
from pipelines.training.recipe import BaseModel

if TYPE_CHECKING:
    from analysis.features.vectoriser import Features

OF_BASE_MODEL = ("hidden_state", "joint")
"""Kinds that read prompts with the base model."""
JOINT = ("joint", "joint_words")
"""Kinds that see the answer beside the prompt."""


class FeaturesConfig(dg.Config):
    """How documents become vectors."""

    kind: Literal["tfidf", "embeddings", "hidden_state", "joint", "joint_words"] = "tfidf"
    """`tfidf` (TF-IDF, truncated SVD, L2 norm) or `embeddings` (a sentence-transformers model).

    `hidden_state`: the base model's last hidden state at the end of the prompt, standardised, PCA, L2 norm.
    `joint_words`: TF-IDF of the prompt beside TF-IDF of the answer. `joint`: both, and the hidden state beside them.
    """
    text: Literal["prompt", "completion", "both"] = "prompt"
    """`prompt`, `completion` or `both`; a served model can choose an expert only by the prompt."""
    n_components: int | None = Field(None, ge=1)
    """Default: 32 for TF-IDF, 64 for hidden states; joint features have 128 and 64 of the words, 64 of the state."""
    max_features: int = Field(20_000, ge=1)
    tokens: Literal["unicode", "scikit-learn"] = "unicode"
    """The pattern of a word: `unicode`, for every script, or `scikit-learn`, its default pattern; equal on ASCII."""
    sample_size: int = Field(10_000, ge=1)
    embedding_model: str | None = None
    """Hub id or folder; default: the packaged MiniLM."""
    template: Literal["chat", "plain"] = "chat"
    """For `hidden_state` and `joint`: what surrounds a prompt, as in `tokenised_documents`."""
    max_length: int = Field(512, ge=1)
    """For `hidden_state` and `joint`: largest number of tokens of a prompt; a longer one loses its middle."""
    random_state: int = Field(0, ge=0, le=LARGEST_SEED)


def _described(artifact: Artifact, corpus_documents: Artifact) -> Description:
    features = artifact.array("features")
    documents = corpus_documents.scan("documents").select(pl.len()).collect().item()
    infinite = int((~np.isfinite(features)).sum())
    zero_rows = int((~features.any(axis=1)).sum())
    return Description(
        metadata={"dimensions": features.shape[1], "zero_rows": zero_rows, **artifact.json("statistics")},
        checks=[
            Check(
                "one_row_per_document",
                len(features) == documents,
                f"{len(features)} rows, {documents} documents",
                {"rows": len(features), "documents": documents},
            ),
            Check("finite", infinite == 0, f"{infinite} values are not finite", {"not_finite": infinite}),
            Check(
                "no_zero_rows",
                zero_rows == 0,
                f"{zero_rows} documents have no known term",
                {"documents_without_terms": zero_rows},
            ),
        ],
    )


@artifact_asset(
    group="corpus",
    kinds={"polars", "numpy"},
    describe=_described,
    blocking={
        "one_row_per_document": "There is a row of features for each document.",
        "finite": "Every feature is a finite number.",
    },
    warnings={"no_zero_rows": "Every document has a term of the vocabulary, or text."},
    unused=lambda config: () if config.kind in OF_BASE_MODEL else ("base_model",),
)
def document_features(draft: Draft, config: FeaturesConfig, base_model: BaseModel, corpus_documents: Artifact) -> None:
    """Features of every document, by default TF-IDF projected onto its leading singular vectors (LSA).

    Rows have L2 norm one. The vectoriser is fitted on a sample of the training documents and saved, so that new
    documents get features in the same space.
    """
    from analysis.corpus.document_text import document_text
    from analysis.features.vectoriser import TextStatistics

    text = "pair" if config.kind in JOINT else config.text
    documents = corpus_documents.scan("documents").select("split", text=document_text(text)).collect()
    with _vectoriser(config, base_model) as vectoriser:
        vectoriser.fit(documents.filter(pl.col("split") == "train")["text"])
        vectoriser.save(draft.folder / "vectoriser")
        blocks = list(vectoriser.stream([documents["text"]]))
    draft.write_array("features", np.concatenate([block.features for block in blocks]))
    draft.write_array("explained", np.concatenate([block.explained for block in blocks]))
    draft.write_json("statistics", asdict(sum((block.statistics for block in blocks), TextStatistics())))


@contextmanager
def _vectoriser(config: FeaturesConfig, base_model: BaseModel) -> Iterator["Features"]:
    """An unfitted vectoriser of the configured kind. For hidden states, it holds the base model in this context."""
    sizes: dict[str, Any] = {"sample_size": config.sample_size, "random_state": config.random_state}
    words: dict[str, Any] = {"max_features": config.max_features, "tokens": config.tokens}
    components: dict[str, Any] = {} if config.n_components is None else {"n_components": config.n_components}
    refuse_settings(config)
    if config.kind == "tfidf":
        from analysis.features.lsa import TfidfLsa

        yield TfidfLsa(**components, **sizes, **words)
    elif config.kind == "embeddings":
        from analysis.features.embeddings import SentenceEmbeddings

        yield SentenceEmbeddings(config.embedding_model)
    elif config.kind == "joint_words":
        from analysis.features.joint import JointFeatures

        yield JointFeatures(**sizes, **words)
    else:
        from analysis.features.hidden_states import HiddenStates
        from analysis.features.joint import JointFeatures

        encoded_by = {**base_model.identity(), "template": config.template, "max_length": config.max_length}
        with prompt_encoder(base_model, encoded_by) as encoder:
            hidden = HiddenStates(**components, **sizes, encoder=encoder, encoded_by=encoded_by)
            yield hidden if config.kind == "hidden_state" else JointFeatures(hidden, **sizes, **words)


def refuse_settings(config: FeaturesConfig) -> None:
    """Refuse settings that this kind of features does not have.

    Raises:
        ValueError: `text` or `n_components` is set, and the kind has no use for it.
    """
    if config.kind in (*OF_BASE_MODEL, *JOINT) and config.text != "prompt":
        which = "the prompt and the answer, each for itself" if config.kind in JOINT else "the end of a prompt"
        raise ValueError(f"expected text `prompt` with kind `{config.kind}`, which reads {which}; got {config.text!r}")
    if config.kind in JOINT and config.n_components is not None:
        raise ValueError(
            f"expected no n_components with kind `{config.kind}`, whose views have numbers of their own; got "
            f"{config.n_components}"
        )
