"""Corpora of known make-up, mixed from real ones, to ask rules how many parts they have.

A pool maps names of parts to documents (prompt, completion). Development and held-out pools share no part; the split is
drawn by a fixed seed, before any rule was looked at. Rules may be tuned on the development pools only.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

Document = tuple[str, str]
Pool = dict[str, list[Document]]

CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", Path(__file__).resolve().parents[3] / "shared" / "corpora"))
SPLIT_SEED = 2024
WHOLE = ("dolly15k", "flan10", "gsm8k", "legalbench", "mbxp", "medquad")


@dataclass(frozen=True)
class Mix:
    """Documents of several parts, shuffled.

    Attributes:
        labels: [n], the part of each document.
    """

    names: tuple[str, ...]
    documents: list[Document]
    labels: np.ndarray

    def texts(self, text: str) -> list[str]:
        return [f"{prompt}\n{completion}" if text == "both" else prompt for prompt, completion in self.documents]


def read(stem: str) -> pl.DataFrame:
    return pl.read_parquet(CORPORA / f"{stem}.parquet").with_columns(pl.col(pl.String).fill_null(""))


def documents(table: pl.DataFrame) -> list[Document]:
    return [(f"{instruction}\n{input_}", output) for instruction, input_, output in table.select(
        "instruction", "input", "output").rows()]  # fmt: skip


def by(table: pl.DataFrame, column: str, at_least: int) -> Pool:
    groups = table.group_by(column, maintain_order=True)
    return {str(name): documents(group) for (name,), group in groups if len(group) >= at_least}


def domains() -> Pool:
    """Four domains and the ten task clusters of flan10. Several of them have clear sub-tasks of their own."""
    whole = {"math": "gsm8k", "medical": "medquad", "law": "legalbench", "code": "mbxp"}
    pool = {name: documents(read(f"{stem}_train")) for name, stem in whole.items()}
    return pool | by(read("flan10_train"), "domain", 1)


def whole_corpora() -> Pool:
    """Collections as users have them, most of them of many parts."""
    return {name: documents(read(f"{name}_train")) for name in WHOLE}


def datasets() -> Pool:
    """Data sets as their authors published them: each one task or one collection."""
    merged = {
        "uci_amazon_cells": "uci",
        "uci_imdb": "uci",
        "uci_yelp": "uci",
        "arc_easy": "arc",
        "arc_challenge": "arc",
    }
    pool = by(read("flan10_train").with_columns(pl.col("task").replace(merged)), "task", 250)
    for stem in ("gsm8k", "medquad", "legalbench", "mbxp", "dolly15k"):
        pool[stem] = documents(read(f"{stem}_train"))
    for stem in ("mbpp", "pubmedqa"):
        pool[stem] = documents(pl.concat([read(f"{stem}_train"), read(f"{stem}_test")]))
    return pool


def legal_tasks() -> Pool:
    return by(read("legalbench_train"), "task", 150)


def bbh_tasks() -> Pool:
    table = read("bbh_test").select("task", instruction="input", input=pl.lit(""), output="target")
    return by(table, "task", 150)


def mmlu_subjects() -> Pool:
    options = pl.concat_str(pl.col("question", "A", "B", "C", "D"), separator="\n")
    table = read("mmlu_test").select("subject", instruction=options, input=pl.lit(""), output="answer")
    return by(table, "subject", 200)


def single_tasks() -> Pool:
    """Corpora of one task each."""
    pool = by(read("flan10_train"), "task", 300)
    pool |= by(read("mbxp_train"), "task", 300) | by(read("medquad_train"), "task", 500)
    pool |= by(read("dolly15k_train"), "task", 300) | mmlu_subjects()
    everything = datasets()
    return pool | {name: everything[name] for name in ("gsm8k", "mbpp", "pubmedqa")}


def split(pool: Pool, seed: int = SPLIT_SEED) -> tuple[Pool, Pool]:
    """Development and held-out half of a pool."""
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(pool))]
    half = (len(order) + 1) // 2
    return {name: pool[name] for name in sorted(order[:half])}, {name: pool[name] for name in sorted(order[half:])}


def draw(pool: Pool, n_parts: int, n_documents: int, ratio: float, seed: tuple[int, ...]) -> Mix:
    """Parts at random; sizes in a geometric series whose ends differ by `ratio`."""
    random = np.random.default_rng(seed)
    names = [str(name) for name in random.choice(sorted(pool), n_parts, replace=False)]
    sizes = random.permutation(np.geomspace(1, ratio, n_parts) if n_parts > 1 else np.ones(1))
    sizes = np.round(n_documents * sizes / sizes.sum()).astype(int)
    chosen, labels = [], []
    for part, (name, size) in enumerate(zip(names, sizes, strict=True)):
        rows = random.choice(len(pool[name]), min(size, len(pool[name])), replace=False)
        chosen += [pool[name][row] for row in rows]
        labels += [part] * len(rows)
    order = random.permutation(len(chosen))
    return Mix(tuple(names), [chosen[i] for i in order], np.array(labels)[order])


def shuffle_words(texts: list[str], seed: tuple[int, ...]) -> list[str]:
    """Every document keeps its length; its words are drawn from the words of all documents."""
    random = np.random.default_rng(seed)
    words = np.array([word for text in texts for word in text.split()], dtype=object)
    return [" ".join(words[random.integers(0, len(words), len(text.split()))]) for text in texts]
