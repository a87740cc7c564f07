"""Cleaning in shards: the stages from files to documents. The rules are those of `analysis.corpus.cleaning`.

This process holds distinct pairs of duplicates (16 bytes each); texts stay with the workers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.corpus.cleaning import HELD_OUT, CleanConfig
from analysis.corpus.data_card import check_vanished, data_card
from analysis.corpus.deduplication import step_between_counted
from analysis.engine.files import parquet_bytes, read_table
from analysis.engine.stages import Done, Stages
from analysis.shards import duplicates, leaks
from analysis.shards.documents import CARD, SAMPLE
from analysis.shards.duplicates import PAIR_SCHEMA, number_of
from analysis.shards.planning import label
from analysis.shards.reading import RECORDS, check_pieces
from analysis.sources import FilesSource

Shard = Mapping[str, Any]
KEYS_OF_TASK = 4_000_000
"""Number of keys that a task sorts at a time; each takes some hundred bytes."""
PAIRS_OF_TASK = 20_000
"""Number of pairs whose shingles a task holds at a time; a document's take some kilobytes."""
VERDICT_SCHEMA = pl.Schema({"row": pl.UInt32(), "why": pl.String(), "kept_id": pl.String(), "kept_source": pl.String()})


@dataclass(frozen=True)
class CleanedShards:
    """Cleaned documents.

    Attributes:
        shards: result of `analysis.shards.documents.shard_documents` for each shard.
        sample: file of the sample of training documents.
        data_card: see `analysis.corpus.data_card`.
        notes: notes on data that was not read.
    """

    shards: list[Done]
    sample: dict[str, Any]
    data_card: dict[str, Any]
    notes: list[str]


class ShardedCleaning:
    """Cleans shards on the engine of `stages`.

    Args:
        stages: where tasks run.
        shards: result of `plan` for the corpus.
        sources: name -> how its files are read.
        config: which records are kept.

    Raises:
        ValueError: `config` limits documents per source, which needs a sort over all shards.
    """

    def __init__(
        self, stages: Stages, shards: Sequence[Shard], sources: Mapping[str, FilesSource], config: CleanConfig
    ) -> None:
        if config.max_documents_per_source is not None:
            raise ValueError(
                f"max_documents_per_source: expected none for a corpus in shards, got "
                f"{config.max_documents_per_source}. Take a part of the source's files instead"
            )
        self.stages, self.config, self.sources = stages, config, sources
        self.labels = [label(shard) for shard in shards]
        given = [_read_as(shard, sources) | {"clean": asdict(config)} for shard in shards]
        self.read = self._map("read", "reading:read_shard", given)
        check_pieces(shards, _lacking(self.read), sources)
        self.records = [one.files[RECORDS] for one in self.read]
        firsts = pl.Series([0, *(one.value["n_rows"] for one in self.read)], dtype=pl.UInt64).cum_sum()
        self.firsts: list[int] = firsts.to_list()[:-1]
        self.n_parts = -(-sum(one.value["n_candidates"] for one in self.read) // KEYS_OF_TASK) or 1

    def run(
        self,
        evaluation: tuple[Sequence[Shard], Mapping[str, FilesSource]],
        text: str,
        sample_size: int,
        random_state: int,
    ) -> CleanedShards:
        """Find duplicates and leaks, and write documents.

        Args:
            text: which text the sample has; see `analysis.corpus.document_text`.
        """
        exact = self._exact()
        dropped = self._by_shard(exact.select("rank").with_columns(number_of(pl.col("rank"))))
        near = self._near([self._rows(table) for table in dropped])
        verdicts = self._verdicts(exact, near)
        leak = self._leaks(verdicts, evaluation) if self.config.decontaminate else [None] * len(verdicts)
        same = {"text": text, "sample_size": sample_size, "random_state": random_state}
        given = [
            {"records": records, "duplicates": verdict, "leaks": found, **same}
            for records, verdict, found in zip(self.records, verdicts, leak, strict=True)
        ]
        done = self._map("documents", "documents:shard_documents", given)
        counts = read_table(self._reduce("card", "documents:merged_cards", done, CARD)["url"])
        card = data_card(counts, list(self.sources))
        if not card["n_kept"]:
            check_vanished(card)
        sample = self._reduce("sample", "documents:merged_samples", done, SAMPLE, (sample_size, random_state))
        notes = [text for one in self.read for text in one.value["notes"]]
        return CleanedShards(done, sample, card, list(dict.fromkeys(notes)))

    def _exact(self) -> pl.DataFrame:
        given = [{"records": file, "n_parts": self.n_parts} for file in self.records]
        contents = self._map("contents", "duplicates:shard_contents", given)
        return _pairs(self._pairs_of("exact", "exact_pairs", contents, n_bands=1))

    def _near(self, dropped: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
        """Near duplicates as `kept`, `rank`."""
        threshold = self.config.near_duplicate_threshold
        if threshold is None:
            return pl.DataFrame(schema=PAIR_SCHEMA)
        given = [{"records": file, "dropped": rows} for file, rows in zip(self.records, dropped, strict=True)]
        step = step_between_counted(sum(one.value["n_rows"] for one in self.read))
        placed = [g | {"first": first, "step": step} for g, first in zip(given, self.firsts, strict=True)]
        counted = self._map("counts", "duplicates:shingle_counts", placed)
        counts = self._reduce("counts", "duplicates:summed_counts", counted, duplicates.COUNTS)
        shingled = [
            {"records": file, "shingled": one.files[duplicates.SHINGLES], "counts": counts}
            for file, one in zip(self.records, counted, strict=True)
        ]
        pairs = self._candidates(shingled, threshold)
        parts = [pairs.slice(first, PAIRS_OF_TASK) for first in range(0, len(pairs), PAIRS_OF_TASK)]
        if not parts:
            return pl.DataFrame(schema=PAIR_SCHEMA)
        documents = self._compared([one | {"n_parts": len(parts)} for one in shingled], parts)
        files = [self.stages.put("pairs", "parquet", parquet_bytes([part])) for part in parts]
        arguments = [
            {"pairs": file, "documents": documents, "part": part, "threshold": threshold}
            for part, file in enumerate(files)
        ]
        labels = [f"part {part} of {len(files)}" for part in range(len(files))]
        alike = self._map("alike", "duplicates:alike_pairs", arguments, labels)
        return duplicates.kept_ones(_pairs(alike))

    def _candidates(self, given: Sequence[dict[str, Any]], threshold: float) -> pl.DataFrame:
        more = {"threshold": threshold, "n_parts": self.n_parts}
        bands = self._map("bands", "duplicates:shard_bands", [one | more for one in given])
        found = self._pairs_of("candidates", "band_pairs", bands, bands[0].value)
        return read_table(self._reduce("candidates", "duplicates:distinct_pairs", found, duplicates.PAIRS)["url"])

    def _pairs_of(self, stage: str, function: str, keys: Sequence[Done], n_bands: int) -> list[Done]:
        """Files of pairs of equal keys, with a task for each part of each band."""
        shards = [
            {"file": one.files[duplicates.KEYS], "first": first} for one, first in zip(keys, self.firsts, strict=True)
        ]
        n = self.n_parts
        arguments = [{"shards": shards, "place": place, "n_places": n_bands * n} for place in range(n_bands * n)]
        labels = [f"band {place // n}, part {place % n} of {n}" for place in range(n_bands * n)]
        return self._map(stage, f"duplicates:{function}", arguments, labels)

    def _compared(self, given: Sequence[dict[str, Any]], parts: Sequence[pl.DataFrame]) -> list[dict[str, Any]]:
        """Files with the shingles of all documents in pairs, of the shards that have one."""
        wanted = pl.concat(
            part.select(rank=pl.concat_list("kept", "rank").explode()).unique().with_columns(part=pl.lit(number))
            for number, part in enumerate(parts)
        )
        tables = self._by_shard(wanted.with_columns(number=number_of(pl.col("rank"))), "number")
        chosen = [(i, table) for i, table in enumerate(tables) if len(table)]
        arguments = [given[i] | {"wanted": self._wanted(table, "part")} for i, table in chosen]
        done = self._map("compared", "duplicates:compared_documents", arguments, [self.labels[i] for i, _ in chosen])
        return [one.files[duplicates.COMPARED] for one in done]

    def _verdicts(self, exact: pl.DataFrame, near: pl.DataFrame) -> list[dict[str, Any]]:
        """For each shard a file with `VERDICT_SCHEMA`: duplicates, and what was kept instead."""
        pairs = pl.concat(
            [exact.with_columns(why=pl.lit("exact_duplicate")), near.with_columns(why=pl.lit("near_duplicate"))]
        )
        kept = pairs.select(rank="kept").unique().sort("rank").with_columns(number=number_of(pl.col("rank")))
        chosen = [(i, table) for i, table in enumerate(self._by_shard(kept, "number")) if len(table)]
        done = self._map(
            "names",
            "duplicates:shard_names",
            [{"records": self.records[i], "wanted": self._wanted(table)} for i, table in chosen],
            [self.labels[i] for i, _ in chosen],
        )
        names = pl.concat(
            [
                pl.DataFrame(schema={"rank": pl.UInt64, "document_id": pl.String, "source": pl.String}),
                *(read_table(one.files["names.parquet"]["url"]) for one in done),
            ]
        ).rename({"rank": "kept", "document_id": "kept_id", "source": "kept_source"})
        named = pairs.join(names, on="kept", how="left", maintain_order="left")
        tables = self._by_shard(named.with_columns(number=number_of(pl.col("rank"))), "number")
        columns = VERDICT_SCHEMA.names()
        return [self.stages.put("verdicts", "parquet", parquet_bytes([table.select(columns)])) for table in tables]

    def _leaks(
        self, verdicts: Sequence[dict[str, Any]], evaluation: tuple[Sequence[Shard], Mapping[str, FilesSource]]
    ) -> list[dict[str, Any] | None]:
        """Arguments of `contaminated_rows` for each shard."""
        shards, sources = evaluation
        names = [*sources, HELD_OUT]
        given = [{"records": file, "dropped": rows} for file, rows in zip(self.records, verdicts, strict=True)]
        theirs = [_read_as(shard, sources) | {"owner": names.index(shard["source"])} for shard in shards]
        other = self._map("evaluation_ngrams", "leaks:evaluation_ngrams", theirs, [label(shard) for shard in shards])
        check_pieces(shards, _lacking(other), sources)
        own = self._map("ngrams", "leaks:held_out_ngrams", [g | {"owner": len(names) - 1} for g in given])
        ngrams = self._reduce("ngrams", "leaks:merged_ngrams", [*other, *own], leaks.NGRAMS)
        if read_table(ngrams["url"], ["owner"], group=0).is_empty():
            return [None] * len(given)
        hits = self._map("hits", "leaks:shard_hits", [g | {"ngrams": ngrams} for g in given])
        places = self._reduce("places", "leaks:merged_places", hits, leaks.PLACES)
        common = {"places": places, "ngrams": ngrams, "names": names}
        return [{"hits": one.files[leaks.HITS], **common} for one in hits]

    def _map(
        self, stage: str, function: str, arguments: Sequence[dict[str, Any]], labels: Sequence[str] | None = None
    ) -> list[Done]:
        return self.stages.map(
            stage, f"analysis.shards.{function}", arguments, self.labels if labels is None else labels
        )

    def _reduce(
        self, stage: str, function: str, done: Sequence[Done], suffix: str, more: tuple[int, ...] = ()
    ) -> dict[str, Any]:
        given = dict(zip(("sample_size", "random_state"), more, strict=False))
        files = [one.files[suffix] for one in done]
        return self.stages.reduce(f"{stage}-merged", f"analysis.shards.{function}", files, suffix, **given)

    def _by_shard(self, table: pl.DataFrame, number: str = "rank") -> list[pl.DataFrame]:
        """The rows of each shard, with `row`: the number within the shard; ordered by it."""
        table = table.sort(number)
        firsts = np.array(self.firsts, np.uint64)
        bounds = [*np.searchsorted(table[number].to_numpy(), firsts).tolist(), len(table)]
        row = pl.col(number)
        return [
            table[start:stop].with_columns(row=(row - first).cast(pl.UInt32))
            for first, start, stop in zip(self.firsts, bounds[:-1], bounds[1:], strict=True)
        ]

    def _rows(self, table: pl.DataFrame) -> dict[str, Any]:
        return self.stages.put("dropped_rows", "parquet", parquet_bytes([table.select("row")]))

    def _wanted(self, table: pl.DataFrame, *more: str) -> dict[str, Any]:
        table = table.sort("row", *more).select("row", "rank", *more)
        return self.stages.put("wanted", "parquet", parquet_bytes([table]))


def _pairs(done: Sequence[Done]) -> pl.DataFrame:
    found = [read_table(one.files[duplicates.PAIRS]["url"]) for one in done if one.value]
    return pl.concat([pl.DataFrame(schema=PAIR_SCHEMA), *found])


def _lacking(done: Sequence[Done]) -> list[dict[str, Any]]:
    return [piece for one in done for piece in one.value["lacking"]]


def _read_as(shard: Shard, sources: Mapping[str, FilesSource]) -> dict[str, Any]:
    """Arguments of a task that reads a shard: the shard, and the fields of its source."""
    source = asdict(sources[shard["source"]])
    return {"shard": shard, "source": {name: value for name, value in source.items() if name != "paths"}}
