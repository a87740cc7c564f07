"""Tokens of a study's documents, in three disjoint parts: for training, for tuning and for reporting."""

from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
from pydantic import Field

from pipelines.store.artifacts import Artifact, Draft
from pipelines.training.documents import held_out_documents, read_tokens

if TYPE_CHECKING:
    from hydralora.data import TokenisedDocuments

TRAINING, VALIDATION, HELD_OUT = "training", "validation", "held_out"


class SplitConfig(dg.Config):
    """How many documents of each source are not trained on.

    The documents with the smallest ids are taken; ids are hashes of the text.
    """

    validation_documents_per_source: int = Field(50, ge=0)
    """Of the training documents, to choose learning rates with."""
    held_out_documents_per_source: int | None = Field(200, ge=1)
    """Of the test documents, to report on; null for all."""

    def parts(self, documents: pl.LazyFrame) -> dict[str, pl.LazyFrame]:
        """The three parts of a documents table."""
        train = documents.filter(pl.col("split") == "train").sort("source", "document_id")
        validates = pl.int_range(pl.len()).over("source") < self.validation_documents_per_source
        return {
            TRAINING: train.filter(~validates),
            VALIDATION: train.filter(validates),
            HELD_OUT: held_out_documents(documents, self.held_out_documents_per_source),
        }


def write_run_documents(
    draft: Draft, tokenised_documents: Artifact, documents: pl.LazyFrame, split: SplitConfig
) -> None:
    """Write the tokens of the three parts, one folder each, and the table `parts`.

    `read_run_documents` memory-maps these folders.

    Args:
        documents: table with `document_id, source, split` and the labels that methods need; see `read_tokens`.

    Raises:
        dagster.Failure: no document is left to train on or to report on.
    """
    rows = []
    for part, frame in split.parts(documents).items():
        tokens = read_tokens(tokenised_documents, frame)
        if not len(tokens) and part != VALIDATION:
            sizes = documents.group_by("source", "split").len("n").sort("source", "split").collect().rows()
            found = ", ".join(f"{source} {n} {part}" for source, part, n in sizes)
            raise dg.Failure(
                f"expected {part} documents beside {split.validation_documents_per_source} of each source for "
                f"validation, got none ({found}). Give more records, or lower validation_documents_per_source.",
                allow_retries=False,
            )
        tokens.save(draft.folder / part)
        rows.append({"part": part, "documents": len(tokens), "tokens": int(tokens.lengths.sum()), **tokens.counts})
    draft.write_table("parts", pl.DataFrame(rows))


def read_run_documents(artifact: Artifact, part: str) -> "TokenisedDocuments":
    """The tokens of one part, memory-mapped."""
    from hydralora.data import TokenisedDocuments

    return TokenisedDocuments.load(artifact.path(part))


def part_size(artifact: Artifact, part: str) -> int:
    """Number of documents of one part."""
    return artifact.read("parts").filter(pl.col("part") == part)["documents"].item()


def parts_overlap(artifact: Artifact) -> int:
    """Number of documents that are in more than one part."""
    parts = artifact.read("parts").filter(pl.col("documents") > 0)["part"]  # `datasets` cannot load an empty one
    ids = [set(read_run_documents(artifact, part).column("document_id")) for part in parts]
    return sum(len(part) for part in ids) - len(set().union(*ids))
