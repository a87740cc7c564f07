"""From files to an `Analysis`, in a few seconds for ten thousand records."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from analysis.answer.analysis import Analysis
from analysis.answer.named_files import left_out, named_sources, read_named
from analysis.clusters.choice.resampling import resampled_numbers
from analysis.clusters.choice.selection import select_num_clusters, source_weights
from analysis.clusters.corpus_model import CorpusModel
from analysis.clusters.description import describe_clusters
from analysis.clusters.interpretation import document_positions
from analysis.clusters.kmeans import count_distinct_rows, sweep_kmeans
from analysis.corpus.cleaning import CleanConfig, clean
from analysis.corpus.data_card import check_vanished
from analysis.experts.grouping import choose_grouping
from analysis.features.lsa import TfidfLsa
from analysis.features.vectoriser import TextStatistics

SHARES = {"read": 0.03, "clean": 0.35, "vectorise": 0.25, "cluster": 0.06, "resample": 0.25, "group": 0.06}
"""Rough share of the time that each stage takes; only the estimate of the time left uses it."""


@dataclass(frozen=True)
class Stage:
    """A finished stage.

    Attributes:
        name: one of `SHARES`.
        found: the result of the stage, in words.
        seconds_left: estimate of the time until the end.
    """

    name: str
    found: str
    seconds: float
    seconds_left: float


class _Clock:
    """Reports each stage with its time."""

    def __init__(self, report: Callable[[Stage], None] | None) -> None:
        self._report = report
        self._start = self._last = time.perf_counter()
        self._done = 0.0

    def finished(self, name: str, found: str) -> None:
        now = time.perf_counter()
        self._done += SHARES[name]
        left = (now - self._start) * max(1 - self._done, 0) / self._done
        if self._report is not None:
            self._report(Stage(name, found, now - self._last, left))
        self._last = now


@contextmanager
def _quiet() -> Iterator[None]:
    """Only errors are logged, because the analysis reports its stages itself."""
    logger = logging.getLogger("analysis")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@_quiet()
def analyze(
    files: str | Path | Sequence[str | Path],
    *,
    columns: Mapping[str, str] | None = None,
    max_clusters: int = 20,
    n_samples: int = 6,
    random_state: int = 0,
    progress: Callable[[Stage], None] | None = None,
) -> Analysis:
    """How many experts the records in some files deserve. Trains nothing.

    It does what the Dagster job `corpus` does with its defaults, in one process and without a store.

    Args:
        files: files, globs or folders; each file is a source, see `analysis.answer.named_files.named_sources`.
        columns: role -> column, where the shape of the files is not a known one: `{"prompt": "ask"}`.
        max_clusters: largest number of clusters tried.
        n_samples: number of random samples that show how certain the number is; 0 draws none.
        random_state: seed of everything random.
        progress: called after each stage.

    Raises:
        analysis.sources.SourceError: the files cannot be read.
        analysis.corpus.data_card.VanishedSourceError: cleaning leaves nothing of a source.
        ValueError: fewer than two prompts are left, or no text has a word.
    """
    clock = _Clock(progress)
    files = [files] if isinstance(files, str | Path) else files
    sources = named_sources(files, columns)
    read = read_named(sources)
    n_read = read.records.select(pl.len()).collect().item()
    clock.finished("read", f"{n_read:,} records, {_number(len(sources), 'source')}")
    cleaned = clean(read.records, CleanConfig())
    card = cleaned.data_card
    check_vanished(card)
    documents = cleaned.documents.collect()
    clock.finished("clean", f"{card['n_kept']:,} documents kept, {card['n_dropped']:,} dropped")
    is_train = (documents["split"] == "train").to_numpy()
    training = documents.filter(pl.Series(is_train))
    if (n_prompts := training["prompt"].n_unique()) < 2:
        raise ValueError(
            f"expected at least two different prompts to train on, got {n_prompts}: of {n_read} records cleaning "
            f"dropped {card['n_dropped']}, and {len(documents) - len(training)} are held out"
        )
    features = TfidfLsa(random_state=random_state)
    features.fit(training["prompt"])
    blocks = list(features.stream([documents["prompt"]]))
    rows = np.concatenate([block.features for block in blocks])
    trained = np.ascontiguousarray(rows[is_train])
    clock.finished("vectorise", f"{len(features.vocabulary_):,} words, {rows.shape[1]} dimensions")
    weights = source_weights(training["source"])
    ks = range(1, min(max_clusters, count_distinct_rows(trained, max_clusters)) + 1)
    sweep = sweep_kmeans(trained, ks, n_init=4, sample_weight=weights, random_state=random_state)
    choice = select_num_clusters(trained, sweep, training["prompt"], random_state=random_state)
    low, high = choice.interval
    clock.finished(
        "cluster", f"{_number(choice.value, 'cluster')} of 1-{max(sweep.n_clusters)} (interval {low}-{high})"
    )
    samples = resampled_numbers(trained, training["prompt"], max_clusters, weights, n_samples, random_state)
    clock.finished(
        "resample",
        ", ".join(f"{_number(n, 'cluster')} in {times} of {n_samples} samples" for n, times in samples.items()),
    )
    centers = sweep.centers[sweep.index(choice.value)]
    positions = document_positions(rows, centers)
    clusters = pl.Series("cluster", positions["cluster"].to_numpy())
    training = training.with_columns(cluster=clusters.filter(pl.Series(is_train)))
    grouping = choose_grouping(training, choice.value, random_state=random_state)
    clock.finished("group", f"{_number(len(grouping.groups), 'expert')}, one for each {grouping.kind}")
    return Analysis(
        files=tuple(path for source in sources.values() for path in source.paths),
        columns=dict(columns or {}),
        documents=documents.with_columns(cluster=clusters),
        data_card=card,
        notes=(*left_out(files), *(f"{name}: {text}" for name, texts in read.notes.items() for text in texts)),
        choice=choice,
        samples=samples,
        grouping=grouping,
        sweep=pl.DataFrame({"n_clusters": sweep.n_clusters, "inertia": sweep.inertia}),
        model=CorpusModel(features, centers, "prompt"),
        features=rows,
        explained=np.concatenate([block.explained for block in blocks]),
        statistics=sum((block.statistics for block in blocks), TextStatistics()),
        positions=positions,
        tables=describe_clusters(documents, "prompt", positions),
    )


def is_compiled() -> bool:
    """Whether numba's cache beside this package has the kernels. If not, the first start takes longer to compile
    them."""
    return any((Path(__file__).parents[1] / "clusters" / "kmeans" / "__pycache__").glob("_kernels*.nbi"))


def _number(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
