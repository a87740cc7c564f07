"""From records to documents: normalise, drop with a reason, split, and describe the result.

Cleaning makes several passes over the records. Up to `CACHE_BYTES` of normalised text stay in memory between passes.
For a larger corpus, each pass reads and normalises the sources again. Then only the index (some hundred bytes per
record) and the band keys of the near-duplicate search (256 bytes per record at the default threshold) stay in memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from analysis.corpus.card_counts import card_counts
from analysis.corpus.data_card import check_vanished, data_card
from analysis.corpus.decontamination import contaminated
from analysis.corpus.deduplication import TEXT, exact_duplicates, near_duplicates
from analysis.corpus.documents import Documents, Dropped, document_ids
from analysis.corpus.language import languages
from analysis.corpus.semantic import SemanticSearch, semantic_duplicates
from analysis.sources.records import RECORD_SCHEMA
from analysis.text.normalisation import normalised

BATCH_ROWS = 8_192
CACHE_BYTES = 256_000_000
HELD_OUT = "held_out"
"""Name of the corpus's own test documents among the evaluation sets."""
VISIBLE = r"[^\s\p{Z}\p{Cc}\p{Cf}\x{115f}\x{1160}\x{3164}\x{2800}]"
"""A visible character: not a space, joiner, direction mark, or blank of Hangul or Braille."""


@dataclass(frozen=True)
class CleanConfig:
    """Which records are kept.

    Args:
        max_prompt_characters, max_completion_characters: longer texts are dropped.
        near_duplicate_threshold: smallest Jaccard similarity of word trigrams that makes a document a duplicate. None
            turns the search off.
        decontaminate: whether to drop training documents that share a run of words with an evaluation text or with the
            corpus's own test documents.
        max_documents_per_source: most training documents kept per source, chosen by a hash of their id. None keeps all.
        test_fraction: share of the documents held out in sources without a split of their own.
        detect_language: whether to fill the `language` column.
    """

    max_prompt_characters: int = field(default=20_000, metadata={"ge": 1})
    max_completion_characters: int = field(default=20_000, metadata={"ge": 1})
    near_duplicate_threshold: float | None = field(default=0.8, metadata={"gt": 0, "le": 1})
    decontaminate: bool = True
    max_documents_per_source: int | None = field(default=None, metadata={"ge": 1})
    test_fraction: float = field(default=0.1, metadata={"ge": 0, "lt": 1})
    detect_language: bool = True

    def __post_init__(self) -> None:
        for name in ("max_prompt_characters", "max_completion_characters", "max_documents_per_source"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.near_duplicate_threshold is not None and not 0 < self.near_duplicate_threshold <= 1:
            raise ValueError(f"near_duplicate_threshold must be in (0, 1], got {self.near_duplicate_threshold}")
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction must be in [0, 1), got {self.test_fraction}")


@dataclass(frozen=True)
class CleanedCorpus:
    """The result of `clean`.

    Args:
        documents: table with the schema `analysis.corpus.documents.Documents`, in the order read. It is lazy, for
            streaming.
        dropped: table with the schema `analysis.corpus.documents.Dropped`.
        data_card: sizes, duplicates, languages, licences; see `analysis.corpus.data_card`.
    """

    documents: pl.LazyFrame
    dropped: pl.DataFrame
    data_card: dict[str, Any] = field(repr=False)


def clean(
    records: pl.LazyFrame,
    config: CleanConfig = CleanConfig(),
    *,
    evaluation: Mapping[str, pl.LazyFrame] | None = None,
    semantic: SemanticSearch | None = None,
) -> CleanedCorpus:
    """Clean the records of all sources together.

    Of two duplicates, the one in a test split is kept, so that held-out sets stay complete; otherwise the first one
    read.

    Args:
        records: table with the columns of `RECORD_SCHEMA`, as `read_sources` returns it.
        evaluation: name of an evaluation set -> its records. A training document that shares a run of words with one of
            them is dropped; see `analysis.corpus.decontamination`.
        semantic: also drop documents that say the same in other words. Default: no such search.

    Raises:
        ValueError: `records` has other columns or types, or cleaning leaves no record (`VanishedSourceError`).
    """
    found = records.collect_schema()
    if dict(found) != dict(RECORD_SCHEMA):
        raise ValueError(f"expected records with the columns {dict(RECORD_SCHEMA)}, got {dict(found)}")
    run = _Run(records, config)
    run.drop_duplicates(semantic)
    if config.decontaminate:
        run.drop_contaminated(evaluation or {})
    run.drop_over_limit()
    return run.result()


class _Run:
    """One cleaning run: the records, and an index with one row per record that collects the verdicts."""

    def __init__(self, records: pl.LazyFrame, config: CleanConfig) -> None:
        self.config = config
        self.records = records.select(
            pl.exclude("prompt", "completion"), normalised(pl.col("prompt", "completion"))
        ).with_row_index("row")
        self.index = self._first_pass()
        # Held-out documents rank first, so that they are kept if they have duplicates.
        ordered = self.index.select("row", pl.col("split") != "test").sort("split", "row")["row"]
        self.rank = np.empty(len(self.index), dtype=np.uint32)
        self.rank[ordered.to_numpy()] = np.arange(len(ordered), dtype=np.uint32)
        self.duplicates: list[pl.DataFrame] = []

    def _first_pass(self) -> pl.DataFrame:
        """Build the index. Small corpora also become a table in memory."""
        blocks: list[pl.DataFrame] = []
        cache: list[pl.DataFrame] | None = []
        n_bytes = 0
        for batch in self.records.collect_batches(chunk_size=BATCH_ROWS):
            blocks.append(index_rows(batch, self.config))
            n_bytes += int(batch.estimated_size())
            if cache is not None and n_bytes <= CACHE_BYTES:
                cache.append(batch)
            else:
                cache = None
        if not blocks:
            raise ValueError("the corpus is empty: no source gave a record")
        if cache is not None:
            self.records = pl.concat(cache).lazy()
        return pl.concat(blocks)

    def _batches(
        self, keep: pl.Expr | None = None, columns: Sequence[str | pl.Expr] = ("prompt", TEXT)
    ) -> Iterator[pl.DataFrame]:
        """One pass over the texts of the records that have no verdict yet."""
        wanted = self.index.filter(pl.col("reason").is_null(), *([] if keep is None else [keep]))["row"]
        alive = np.zeros(len(self.index), dtype=bool)
        alive[wanted.to_numpy()] = True
        for batch in self.records.select("row", *columns).collect_batches(chunk_size=BATCH_ROWS):
            chosen = batch.filter(pl.Series(alive[batch["row"].to_numpy()]))
            if len(chosen):
                yield chosen

    def _drop(self, reason: str, rows: pl.DataFrame, detail: str) -> None:
        """Record a verdict; `rows` has the columns `row` and `detail`."""
        verdict = rows.select("row", new_reason=pl.lit(reason), new_detail=detail)
        self.index = (
            self.index.join(verdict, on="row", how="left", maintain_order="left")
            .with_columns(reason=pl.coalesce("reason", "new_reason"), detail=pl.coalesce("detail", "new_detail"))
            .drop("new_reason", "new_detail")
        )

    def drop_duplicates(self, semantic: SemanticSearch | None) -> None:
        ranked = self.index.filter(pl.col("reason").is_null())
        ranked = ranked.sort(pl.Series(self.rank[ranked["row"].to_numpy()]))
        self._drop_pairs("exact_duplicate", exact_duplicates(ranked))
        if self.config.near_duplicate_threshold is not None:
            threshold = self.config.near_duplicate_threshold
            self._drop_pairs("near_duplicate", near_duplicates(self._batches, self.rank, threshold))
        if semantic is not None:
            batches = self._batches(columns=("prompt", "completion"))
            self._drop_pairs("semantic_duplicate", semantic_duplicates(batches, semantic, self.rank))

    def _drop_pairs(self, reason: str, pairs: pl.DataFrame) -> None:
        kept = self.index.select(kept_row="row", kept_source="source", kept_id="document_id")
        pairs = pairs.join(kept, on="kept_row").join(self.index.select("row", "source"), on="row")
        self.duplicates.append(pairs.select("source", "kept_source", kind=pl.lit(reason)))
        self._drop(reason, pairs, "kept_id")

    def drop_contaminated(self, evaluation: Mapping[str, pl.LazyFrame]) -> None:
        sets: dict[str, Iterator[pl.DataFrame]] = {name: _texts(table) for name, table in evaluation.items()}
        is_test = pl.col("split") == "test"
        sets[HELD_OUT] = self._batches(is_test)
        found = contaminated(lambda: self._batches(~is_test), sets)
        self._drop("contaminated", found, "evaluation_set")

    def drop_over_limit(self) -> None:
        limit = self.config.max_documents_per_source
        if limit is None:
            return
        alive = self.index.filter(pl.col("reason").is_null(), pl.col("split") == "train")
        place = pl.col("document_id").rank("ordinal").over("source")
        self._drop("over_source_limit", alive.filter(place > limit).with_columns(limit=pl.lit(f"{limit}")), "limit")

    def result(self) -> CleanedCorpus:
        kept = self.index.filter(pl.col("reason").is_null())
        counts = card_counts(self.index, pl.concat(self.duplicates))
        card = data_card(counts, self.index["source"].unique(maintain_order=True).to_list())
        if kept.is_empty():
            check_vanished(card)
        decided = kept.select("row", "document_id", "language", decided_split="split")
        documents = (
            self.records.join(decided.lazy(), on="row", how="inner", maintain_order="left")
            .with_columns(split="decided_split")
            .select(Documents.column_names())
        )
        dropped = self.index.filter(pl.col("reason").is_not_null())
        return CleanedCorpus(
            documents,
            Dropped.validate(dropped.select(Dropped.column_names()), cast=True),
            card,
        )


def index_rows(batch: pl.DataFrame, config: CleanConfig) -> pl.DataFrame:
    """Columns of the index that depend only on the single row.

    Args:
        batch: normalised records with a column `row`.
    """
    ids = document_ids(batch["source"], batch["prompt"], batch["completion"])
    texts = batch.select(TEXT)["text"]
    return batch.select(
        "row",
        ids,
        "source",
        "task",
        _split(ids, config.test_fraction),
        "licence",
        content=pl.struct("prompt", "completion").hash(),
        prompt_characters=pl.col("prompt").str.len_chars(),
        completion_characters=pl.col("completion").str.len_chars(),
        n_bytes=pl.Series(texts.str.len_bytes()),
        language=languages(texts) if config.detect_language else pl.lit(None, pl.String),
        reason=_reason(config),
        detail=pl.lit(None, pl.String),
    )


def _reason(config: CleanConfig) -> pl.Expr:
    """The first reason to drop a record because of its own text, or null."""
    prompt, completion = pl.col("prompt"), pl.col("completion")
    holds = {
        "empty_prompt": ~prompt.str.contains(VISIBLE),
        "empty_completion": ~completion.str.contains(VISIBLE),
        "invalid_utf8": pl.any_horizontal(pl.col("prompt", "completion").str.contains("\ufffd", literal=True)),
        "prompt_too_long": prompt.str.len_chars() > config.max_prompt_characters,
        "completion_too_long": completion.str.len_chars() > config.max_completion_characters,
    }
    return pl.coalesce(pl.when(condition).then(pl.lit(reason)) for reason, condition in holds.items())


def _texts(records: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    texts = records.select(normalised(pl.col("prompt", "completion"))).select("prompt", TEXT)
    return texts.collect_batches(chunk_size=BATCH_ROWS)


def _split(ids: pl.Series, test_fraction: float) -> pl.Expr:
    """The split of the source if it has one, else a split by the first 32 bits of the id."""
    chance = ids.str.slice(0, 8).str.to_integer(base=16) / 2**32
    by_hash = pl.when(pl.Series(chance < test_fraction)).then(pl.lit("test")).otherwise(pl.lit("train"))
    return pl.coalesce("split", by_hash).alias("split")
