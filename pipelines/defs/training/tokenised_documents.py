"""Tokenises documents once, for all training and evaluation."""

from typing import Literal

import dagster as dg
import polars as pl
from pydantic import Field

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.metadata import markdown_table
from pipelines.training.documents import TOKENS
from pipelines.training.recipe import BaseModel


class TokensConfig(dg.Config):
    """How a document becomes tokens."""

    template: Literal["chat", "plain"] = "chat"
    """`chat` is the tokenizer's chat template, `plain` a blank line between prompt and answer."""
    max_length: int = Field(512, ge=2)
    """Most tokens of a document; a longer one loses the middle of its prompt."""


def _described(artifact: Artifact) -> Description:
    counts = artifact.json("counts")
    lost = counts["without_answer"]
    return Description(
        metadata={"lengths": markdown_table(artifact.read("lengths"), rows=100), **counts},
        checks=[
            Check(
                "every_document_has_an_answer",
                lost == 0,
                f"{lost} documents have no answer after tokenisation",
                {"without_answer": lost},
            )
        ],
    )


@artifact_asset(
    group="training",
    kinds={"arrow"},
    describe=_described,
    warnings={"every_document_has_an_answer": "No document loses its answer."},
)
def tokenised_documents(draft: Draft, config: TokensConfig, base_model: BaseModel, corpus_documents: Artifact) -> None:
    """Tokens of every document, with the position where its answer starts. Readers memory-map the files."""
    from hydralora.data import tokenise

    columns = ("document_id", "source", "prompt", "completion")
    with draft.writing("texts.parquet") as path:
        corpus_documents.scan("documents").select(columns).sink_parquet(path)
        tokens = tokenise(path, base_model.tokenizer(), template=config.template, max_length=config.max_length)
        tokens.save(draft.folder / TOKENS)
    (draft.folder / "texts.parquet").unlink()
    lengths = pl.DataFrame({"source": tokens.column("source"), "length": tokens.lengths})
    by_source = lengths.group_by("source").agg(
        documents=pl.len(), tokens=pl.col("length").sum(), longest=pl.col("length").max()
    )
    draft.write_table("lengths", by_source.sort("source"))
    draft.write_json("counts", tokens.counts)
