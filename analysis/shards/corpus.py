"""The corpus stage in shards: read, clean, features, sweep, N, and the cluster of every document.

result = sharded_corpus({"web": FilesSource(("s3://bucket/web/*.parquet",))}, "s3://bucket/corpus", ProcessEngine(8))
pl.scan_parquet(result["documents"])
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.corpus.cleaning import CleanConfig
from analysis.corpus.document_text import checked_text
from analysis.engine.files import join, write_json
from analysis.engine.stages import Done, Stages
from analysis.engine.tasks import Engine
from analysis.shards.cleaning import ShardedCleaning
from analysis.shards.clusters import LABELS, MAP, ROWS, model_files
from analysis.shards.documents import DOCUMENTS, DROPPED
from analysis.shards.planning import plan
from analysis.sources import FilesSource
from analysis.text.characters import Tokens, checked_tokens

logger = logging.getLogger(__name__)
SMALLEST_SHARD = 1 << 10


@dataclass(frozen=True)
class ShardedConfig:
    """How a corpus in shards is cleaned and clustered. Defaults are those of the corpus stage on one machine.

    Args:
        clean: which records are kept; without a limit of documents per source.
        text: `prompt`, `completion` or `both`, the text that is clustered.
        n_components, max_features, tokens: of TF-IDF and LSA; see `analysis.features.lsa`.
        sample_size: training documents that features, the sweep and N are computed from; those with the smallest
            seeded ids.
        max_clusters: largest K.
        n_init: seeds for each K; there is a task for each K and seed.
        balance_sources: whether a source counts at most five times as much as the smallest one.
        random_state: seed of the sample, of the SVD and of N; the sweep's seeds count up from it.
        shard_bytes: approximate size of the files in a shard. A worker needs about ten times as much memory.
    """

    clean: CleanConfig = field(default_factory=CleanConfig)
    text: str = "prompt"
    n_components: int = 32
    max_features: int = 20_000
    tokens: Tokens = "unicode"
    sample_size: int = 10_000
    max_clusters: int = 20
    n_init: int = 4
    balance_sources: bool = True
    random_state: int = 0
    shard_bytes: int = 64_000_000

    def __post_init__(self) -> None:
        checked_text(self.text)
        checked_tokens(self.tokens)
        for name in ("n_components", "max_features", "sample_size", "max_clusters", "n_init"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 <= self.random_state < 2**32:
            raise ValueError(f"random_state: expected 0 to {2**32 - 1:,}, got {self.random_state}")
        if self.shard_bytes < SMALLEST_SHARD:
            raise ValueError(f"shard_bytes: expected at least {SMALLEST_SHARD}, got {self.shard_bytes}")


def sharded_corpus(
    sources: Mapping[str, FilesSource],
    out: str,
    engine: Engine,
    config: ShardedConfig = ShardedConfig(),
    *,
    evaluation: Mapping[str, FilesSource] | None = None,
    code_version: str = "",
    log: Callable[[str], object] = logger.info,
) -> dict[str, Any]:
    """Run the corpus stage. An interrupted run continues where it stopped.

    Args:
        sources: name -> files, by paths or URLs that every worker can read.
        out: folder or URL for all files, which every worker can write to. One folder may serve many runs.
        engine: where tasks run. The files are the same on every engine.
        evaluation: benchmarks whose texts must not be trained on.
        code_version: version of this project. Files of another version are not used.
        log: gets a line about what each stage has to do.

    Returns:
        The content of `corpus.json` in `out`: URLs of the Parquet files `documents`, `dropped`, `labels` in the order
        read, of the `map` of the sample and of the files of the corpus `model`; `data_card`, `choice` (of N),
        `sizes` of clusters, `statistics`, `notes`, and `stages`: tasks, and tasks that ran in this call.

    Raises:
        SourceError: no file matches a path.
        ShardError: a task failed; the message has the file.
        ValueError: the configuration cannot be used, or nothing is left (`VanishedSourceError`).
    """
    stages = Stages(engine, out, code_version, log)
    evaluation = evaluation or {}
    shards, other = plan(sources, config.shard_bytes), plan(evaluation, config.shard_bytes)
    cleaning = ShardedCleaning(stages, shards, sources, config.clean)
    cleaned = cleaning.run((other, evaluation), config.text, config.sample_size, config.random_state)
    chosen = _chosen(stages, config, cleaned.sample)
    assigned = stages.map(
        "labels",
        "analysis.shards.clusters:assigned_documents",
        [{"documents": one.files[DOCUMENTS], "model": chosen.files, "text": config.text} for one in cleaned.shards],
        cleaning.labels,
    )
    statistics = [one.value["statistics"] for one in assigned]
    result = {
        "documents": [one.files[DOCUMENTS]["url"] for one in cleaned.shards],
        "dropped": [one.files[DROPPED]["url"] for one in cleaned.shards],
        "labels": [one.files[LABELS]["url"] for one in assigned],
        "map": chosen.files[MAP]["url"],
        "model": {name: file["url"] for name, file in model_files(chosen.files).items()},
        "data_card": cleaned.data_card,
        "choice": chosen.value,
        "sizes": np.sum([one.value["sizes"] for one in assigned], axis=0).tolist(),
        "statistics": {name: sum(one[name] for one in statistics) for name in statistics[0]},
        "notes": cleaned.notes,
    }
    write_json(join(out, "corpus.json"), result)
    return result | {"stages": stages.counts}


def _chosen(stages: Stages, config: ShardedConfig, sample: Mapping[str, Any]) -> Done:
    """Features, all fits and N, from the sample."""
    settings = {
        "n_components": config.n_components,
        "max_features": config.max_features,
        "tokens": config.tokens,
        "sample_size": config.sample_size,
        "random_state": config.random_state,
    }
    features = stages.one(
        "features", "analysis.shards.clusters:fitted_features", {"sample": sample, "settings": settings}
    )
    seeds = range(config.random_state, config.random_state + config.n_init)
    grid = [(k, seed) for k in range(1, config.max_clusters + 1) for seed in seeds]
    common = {"sample": sample, "balance": config.balance_sources}
    fits = stages.map(
        "sweep",
        "analysis.shards.clusters:fitted_clusters",
        [{**common, "rows": features.files[ROWS], "n_clusters": k, "random_state": seed} for k, seed in grid],
        [f"K = {k}, seed {seed}" for k, seed in grid],
    )
    arguments = {
        **common,
        "features": features.files,
        "fits": [{"value": fit.value, "files": fit.files} for fit in fits],
        "text": config.text,
        "random_state": config.random_state,
    }
    return stages.one("clusters", "analysis.shards.clusters:chosen_clusters", arguments)
