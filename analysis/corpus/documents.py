"""The documents table and the table of dropped records: schemas, and the identity of a document."""

import hashlib

import dataframely as dy
import polars as pl

DROP_REASONS = (
    "empty_prompt",
    "empty_completion",
    "invalid_utf8",
    "prompt_too_long",
    "completion_too_long",
    "exact_duplicate",
    "near_duplicate",
    "semantic_duplicate",
    "contaminated",
    "over_source_limit",
)
"""Reasons for dropping a record. The first that applies, in this order, is given."""


class Documents(dy.Schema):
    """One row for each instruction record that is kept."""

    document_id = dy.String(primary_key=True, regex="^[0-9a-f]{16}$")
    source = dy.String(nullable=False, min_length=1)
    task = dy.String(nullable=True)
    split = dy.String(nullable=False, regex="^(train|test)$")
    prompt = dy.String(nullable=False, min_length=1)
    completion = dy.String(nullable=False, min_length=1)
    language = dy.String(nullable=True)
    licence = dy.String(nullable=True)
    origin = dy.String(nullable=True)


class Dropped(dy.Schema):
    """One row for each record that was read but dropped."""

    document_id = dy.String(nullable=False, regex="^[0-9a-f]{16}$")
    source = dy.String(nullable=False)
    reason = dy.String(nullable=False, regex=f"^({'|'.join(DROP_REASONS)})$")
    detail = dy.String(nullable=True)


def document_ids(source: pl.Series, prompt: pl.Series, completion: pl.Series) -> pl.Series:
    """Id of each record: 16 hex digits of the BLAKE2b hash of source, prompt and completion."""
    texts = ("\0".join(record).encode() for record in zip(source, prompt, completion, strict=True))
    return pl.Series("document_id", [hashlib.blake2b(text, digest_size=8).hexdigest() for text in texts], pl.String)
