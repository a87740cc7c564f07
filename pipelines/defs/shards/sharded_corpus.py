"""A corpus larger than one machine: cleaned, clustered and assigned in shards."""

from typing import Any

import dagster as dg
import polars as pl
from pydantic import field_validator

from analysis.corpus.cleaning import CleanConfig
from analysis.shards import corpus
from analysis.shards.corpus import ShardedConfig
from pipelines.corpus.source_checks import source_checks
from pipelines.corpus.sources import FilesConfig, named_once, to_source
from pipelines.engine.driver import corpus_in_shards
from pipelines.engine.resource import ShardEngine
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.code.versions import code_version
from pipelines.store.configuration import fields_from, values_for
from pipelines.store.metadata import markdown_table


class ShardedSourceConfig(dg.Config):
    """A named source of files."""

    name: str
    read: FilesConfig
    """As in `raw_documents`; a path may be a URL (`s3://`, `gs://`) that every worker can read."""


class CleaningConfig(fields_from(CleanConfig)):  # type: ignore[misc]
    """The rules of cleaning: the fields of `analysis.corpus.cleaning.CleanConfig`."""


class ShardedCorpusConfig(fields_from(ShardedConfig, without=("clean",))):  # type: ignore[misc]
    """Sources, and the fields of `analysis.shards.corpus.ShardedConfig`."""

    sources: list[ShardedSourceConfig]
    out: str
    """Folder or URL for the files of all shards; every worker must be able to write to it."""
    clean: CleaningConfig = CleaningConfig()
    evaluation_sets: list[ShardedSourceConfig] = []
    """Benchmarks whose texts must not be trained on."""

    _named_once = field_validator("sources", "evaluation_sets")(named_once)


def _described(artifact: Artifact) -> Description:
    found = artifact.json("corpus")
    card, choice = found["data_card"], found["choice"]
    sizes = pl.DataFrame({"cluster": range(len(found["sizes"])), "documents": found["sizes"]})
    sources = pl.DataFrame(card["sources"]).select("source", "n_read", "n_kept", "n_train", "n_test")
    return Description(
        metadata={
            "sizes": markdown_table(sizes),
            "sources": markdown_table(sources, rows=200),
            "num_clusters": choice["num_clusters"],
            "reason": choice["reason"],
            "notes": found["notes"],
        },
        checks=[
            *source_checks(card),
            Check(
                "clear_structure",
                choice["structure"],
                choice["reason"],
                {"probability_of_one": choice["probability_of_one"]},
            ),
        ],
    )


def content(config: ShardedCorpusConfig) -> dict[str, Any]:
    """Sizes and versions of all files."""
    from analysis.shards.planning import plan

    plans = [plan(_sources(given), config.shard_bytes) for given in (config.sources, config.evaluation_sets)]
    return {"content": plans}


@artifact_asset(
    group="shards",
    kinds={"polars", "numpy"},
    describe=_described,
    identity=content,
    blocking={"no_source_vanished": "Something is left of every source."},
    warnings={
        "no_source_halved": "Most of every source is left.",
        "clear_structure": "The corpus has clusters, rather than gradual topics or one task.",
    },
)
def sharded_corpus(
    draft: Draft, config: ShardedCorpusConfig, engine: ShardEngine, context: dg.AssetExecutionContext
) -> None:
    """Documents, N and the cluster of every document, computed in shards on one machine or on a Ray cluster.

    The files of the shards stay in `out`. The artifact has `corpus.json`, which lists them, the corpus model for new
    documents, and `map.parquet`: a sample of the documents in the plane.
    """
    from analysis.engine.files import read_bytes, read_table

    values = values_for(ShardedConfig, config)
    settings = ShardedConfig(**values | {"clean": CleanConfig(**values_for(CleanConfig, config.clean))})
    sources, evaluation = _sources(config.sources), _sources(config.evaluation_sets)
    version = code_version(corpus.__name__)
    result = corpus_in_shards(context, engine, sources, evaluation, config.out, settings, version)
    draft.write_json("corpus", {name: value for name, value in result.items() if name != "stages"})
    draft.write_table("map", read_table(result["map"]))
    for name, url in result["model"].items():
        draft.write_bytes(f"corpus_model/{name}", read_bytes(url))


def _sources(given: list[ShardedSourceConfig]) -> dict[str, Any]:
    return {source.name: to_source(source.read) for source in given}
