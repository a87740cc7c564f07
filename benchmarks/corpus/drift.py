"""Does `measure_drift` see documents of a subject that the corpus lacks, and only those? Writes results/drift.json.

    OMP_NUM_THREADS=1 python benchmarks/corpus/drift.py

False alarms: the corpus model is fitted on prompts of six corpora, a tenth of them held out. The new documents are test
prompts of each corpus alone, of each task of a corpus alone, of each cluster alone, of all corpora in equal parts, and
of all in their own, other mix.

True alarms: each corpus is left out in turn. The new documents are 500 test prompts of the other five in equal parts,
of which a growing share is replaced by prompts of the one that was left out; and each of the five alone.

Every comparison is also made with the corpus as a whole, without its groups (`whole`).
"""

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from analysis.clusters.corpus_model import AssignedBlock, CorpusModel
from analysis.clusters.drift import AssignmentSummary, measure_drift, summarise, summarise_corpus
from analysis.clusters.kmeans import sweep_kmeans
from analysis.clusters.known_groups import KnownGroups, describe_groups
from analysis.features.lsa import TfidfLsa
from analysis.features.vectoriser import TextStatistics

RESULT = Path(__file__).parents[1] / "results" / "drift.json"
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", Path(__file__).resolve().parents[3] / "shared" / "corpora"))
NAMES = ("dolly15k", "flan10", "gsm8k", "legalbench", "mbxp", "medquad")
SHARES = (0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1)
SIZES = (30, 100, 500)
N_CLUSTERS = 6
N_TRAIN = (4000, 800)
BLOCK_ARRAYS = ("labels", "squared_distances", "explained")
DRAWS = 5


def texts(name: str, split: str, n: int = 100_000) -> list[str]:
    prompt = pl.concat_str("instruction", "input", separator="\n", ignore_nulls=True)
    documents = pl.read_parquet(CORPORA / f"{name}_{split}.parquet").select(text=prompt).to_series()
    return documents.sample(min(n, len(documents)), seed=0).to_list()


def by_task(name: str) -> dict[str, list[str]]:
    """The test prompts of each task (of each category of dolly15k, of each programming language of mbxp)."""
    prompt = pl.concat_str("instruction", "input", separator="\n", ignore_nulls=True)
    table = pl.read_parquet(CORPORA / f"{name}_test.parquet").select("task", text=prompt).drop_nulls()
    return {str(task): rows["text"].to_list() for (task,), rows in table.group_by("task", maintain_order=True)}


def one_block(blocks: list[AssignedBlock]) -> AssignedBlock:
    parts = {name: np.concatenate([getattr(block, name) for block in blocks]) for name in BLOCK_ARRAYS}
    return AssignedBlock(**parts, statistics=sum((block.statistics for block in blocks), TextStatistics()))


class Corpus:
    """A corpus model of some corpora, and what new documents are compared with."""

    def __init__(self, names: Sequence[str], n_train: int) -> None:
        prompts = {name: texts(name, "train", n_train) for name in names}
        corpus = pl.Series([text for of_corpus in prompts.values() for text in of_corpus])
        sources = pl.Series([name for name, of_corpus in prompts.items() for _ in of_corpus])
        is_held_out = np.arange(len(corpus)) % 10 == 0
        fitted = corpus.filter(~is_held_out)
        self.features = TfidfLsa().fit(fitted)
        self.model = CorpusModel(self.features, sweep_kmeans(self.features.transform(fitted), [N_CLUSTERS]).centers[0])
        block = one_block(list(self.model.stream([corpus])))
        self.reference: AssignmentSummary = summarise_corpus(block, is_held_out, N_CLUSTERS)
        known = describe_groups(self.model, corpus, sources, block.labels, block.explained, is_held_out)
        assert known is not None
        self.known: KnownGroups = known

    def compare(self, new: list[str], **what: Any) -> dict[str, Any]:
        """Drift of new documents, and the verdict of a comparison with the whole corpus."""
        summary = summarise(self.model.stream([new]), N_CLUSTERS)
        whole = measure_drift(self.reference, summary)
        nearest = self.known.nearest(self.features, new)
        drift = asdict(measure_drift(self.reference, summary, nearest, self.known))
        rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in drift.items()}
        return {
            **what,
            "n": len(new),
            "whole": whole.reconsider,
            "whole_novelty": round(whole.novelty or 0, 4),
            **rounded,
        }


def drawn(rng: np.random.Generator, known: list[str], n: int) -> list[str]:
    return [known[i] for i in rng.choice(len(known), min(n, len(known)), replace=False)]


def known_streams(corpus: Corpus, names: Sequence[str]) -> list[dict[str, Any]]:
    """Documents of which nothing is new: every alarm is false."""
    rng = np.random.default_rng(0)
    of_source = {name: texts(name, "test") for name in names}
    rows = []
    for size in SIZES:
        for name, known in of_source.items():
            rows += [corpus.compare(drawn(rng, known, size), stream="source", of=name) for _ in range(DRAWS)]
        for _ in range(DRAWS):
            mixed = [text for known in of_source.values() for text in drawn(rng, known, size // len(names) + 1)]
            rows.append(corpus.compare(mixed, stream="all in equal parts", of=""))
    every = [text for known in of_source.values() for text in known]
    rows.append(corpus.compare(every, stream="all in their own mix", of=""))
    labels, _ = corpus.model.assign(every)
    for cluster in range(N_CLUSTERS):
        of_cluster = [text for text, label in zip(every, labels, strict=True) if label == cluster]
        for size in SIZES:
            if len(of_cluster) >= size:
                new = drawn(rng, of_cluster, size)
                rows.append(corpus.compare(new, stream="cluster", of=str(cluster)))
    for name in names:
        for task, of_task in by_task(name).items():
            for size in SIZES[:2]:
                if len(of_task) >= size:
                    rows.append(corpus.compare(drawn(rng, of_task, size), stream="task", of=f"{name}/{task}"))
    return rows


def unknown_streams(left_out: str, n_train: int) -> list[dict[str, Any]]:
    """Growing shares of a corpus that was left out, among the others'."""
    others = [name for name in NAMES if name != left_out]
    corpus, rng = Corpus(others, n_train), np.random.default_rng(0)
    known = [text for name in others for text in texts(name, "test", 400)]
    unknown = texts(left_out, "test", 500)
    rows = []
    for size in SIZES:
        for share in SHARES:
            n_unknown = min(round(share * size), len(unknown))
            new = [*drawn(rng, known, size - n_unknown), *drawn(rng, unknown, n_unknown)]
            rows.append(corpus.compare(new, stream=f"{share:.0%} new", of=left_out))
    return rows


def report(rows: list[dict[str, Any]]) -> None:
    """Print how many alarms there are of each kind, with groups and with the whole corpus."""
    for (stream, n), at in pl.DataFrame(rows, infer_schema_length=None).group_by("stream", "size", maintain_order=True):
        alarms = f"alarms {at['reconsider'].sum()} (whole corpus: {at['whole'].sum()}) of {len(at)}"
        print(f"{stream:22} {n:>5} {alarms}; outside {at['outside'].min():.3f}-{at['outside'].max():.3f}", flush=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    result: dict[str, Any] = {"runs": {}}
    for n_train in N_TRAIN:
        known = known_streams(Corpus(NAMES, n_train), NAMES)
        unknown = [row for name in NAMES for row in unknown_streams(name, n_train)]
        result["runs"][f"{n_train} training prompts of each corpus"] = {"known": known, "unknown": unknown}
        print(f"{n_train} training prompts of each corpus")
        report([{"size": min(SIZES, key=lambda size: abs(size - row["n"])), **row} for row in known + unknown])
    files = sorted(path for name in NAMES for path in CORPORA.glob(f"{name}_t*.parquet"))
    result |= {
        "data": {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files},
        "versions": {n: metadata.version(n) for n in ("numba", "numpy", "scikit-learn")},
    }
    RESULT.write_text(json.dumps(result) + "\n")  # thousands of lines otherwise


if __name__ == "__main__":
    main()
