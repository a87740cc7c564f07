"""Documents that say the same in other words: what the search finds in real corpora, and what it finds wrongly.

    OMP_NUM_THREADS=1 python benchmarks/corpus/semantic_duplicates.py embed FOLDER          # once; minutes on a CPU
    python benchmarks/corpus/semantic_duplicates.py measure FOLDER benchmarks/results/semantic_duplicates.json

Documents are what the usual cleaning (exact and near duplicates) leaves of each corpus. Reworded questions are made by
rule: MedQuAD's questions follow a dozen templates, and each gets other words. They are told apart from questions of the
same template about another disease. `measure` also writes 50 of the pairs found, drawn at random, to be read by hand.
"""

import argparse
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from corpus_mixes import CORPORA

from analysis.corpus.cleaning import CleanConfig, clean
from analysis.corpus.semantic import NUMBER, SemanticSearch, semantic_duplicates
from analysis.sources import FilesSource, read_sources

SIZES = {"dolly15k": 500, "flan10": 300, "gsm8k": 300, "legalbench": 300, "medquad": 700}
THRESHOLDS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
READ = 50
SEED = 0
REWORDED = {
    r"^What is \(are\) (.+?) ?\?$": "Could you explain {}?",
    r"^What are the symptoms of (.+?) ?\?$": "Which signs does a person with {} have?",
    r"^What are the treatments for (.+?) ?\?$": "How do doctors treat {}?",
    r"^What causes (.+?) ?\?$": "Why do people get {}?",
    r"^Is (.+?) inherited ?\?$": "Does {} run in families?",
    r"^How many people are affected by (.+?) ?\?$": "How common is {}?",
    r"^Who is at risk for (.+?)\? ?\?$": "Which people are likely to get {}?",
    r"^How to diagnose (.+?) ?\?$": "Which tests show that someone has {}?",
    r"^How to prevent (.+?) ?\?$": "What can I do against getting {}?",
    r"^What is the outlook for (.+?) ?\?$": "What can a patient with {} expect?",
}


def documents() -> pl.DataFrame:
    """Training documents of each corpus after the usual cleaning, drawn at random."""
    files = {name: FilesSource((str(CORPORA / f"{name}_train.parquet"),)) for name in SIZES}
    cleaned = clean(read_sources(files).records, CleanConfig(detect_language=False)).documents.collect()
    drawn = [cleaned.filter(source=name).sample(size, shuffle=True, seed=SEED) for name, size in SIZES.items()]
    return pl.concat(drawn).select("source", "task", "prompt", "completion")


def reworded(prompt: str) -> str | None:
    """A question of MedQuAD in other words, or None if its template has none."""
    for pattern, words in REWORDED.items():
        if found := re.match(pattern, prompt):
            return words.format(found[1])
    return None


def embed(folder: Path) -> None:
    """Texts, reworded questions, and the embeddings of all."""
    from analysis.features.embeddings import SentenceEmbeddings

    folder.mkdir(parents=True, exist_ok=True)
    table = documents().with_columns(other=pl.col("prompt").map_elements(reworded, pl.String)).with_row_index("row")
    table.write_parquet(folder / "documents.parquet")
    model = SentenceEmbeddings()
    for name in ("prompt", "completion", "other"):
        np.save(folder / f"{name}.npy", model.transform(table[name].fill_null("")))
        print(name, flush=True)


def measure(folder: Path) -> dict[str, Any]:
    """Pairs of each threshold, reworded questions found, and false alarms among questions of one template."""
    table = pl.read_parquet(folder / "documents.parquet")
    vectors = {name: np.load(folder / f"{name}.npy") for name in ("prompt", "completion", "other")}
    rank = np.arange(len(table), dtype=np.uint32)
    found: dict[str, Any] = {"documents": dict(table.group_by("source").len().sort("source").iter_rows())}
    for threshold in THRESHOLDS:
        pairs = semantic_duplicates([table], SemanticSearch(_stored(vectors), threshold), rank)
        sources = pairs.join(table.select("row", "source"), on="row")["source"].value_counts(sort=True)
        found[f"{threshold}"] = {
            "dropped": len(pairs),
            "by_source": dict(sources.iter_rows()),
            "reworded": reworded_found(table, vectors, threshold),
        }
        rows = pairs.sample(min(READ, len(pairs)), seed=SEED, shuffle=True)
        texts = [[table.row(r, named=True), table.row(k, named=True)] for r, k in rows.iter_rows()]
        (folder / f"pairs_{threshold}.json").write_text(json.dumps(texts, indent=1, ensure_ascii=False))
    found["random_pairs"] = random_pairs(vectors)
    return found


def _stored(vectors: dict[str, Any]) -> Callable[[pl.Series], Any]:
    """The embeddings of a whole column, by its name."""
    return lambda texts: vectors[texts.name]


def reworded_found(table: pl.DataFrame, vectors: dict[str, Any], threshold: float) -> dict[str, float]:
    """Shares of reworded questions (with their own answer) found, and of other diseases' questions taken for them.

    The answer of a reworded question is the original's, so it is alike by itself. A question of the same template about
    another disease has its own answer.
    """
    rows = table.filter(pl.col("other").is_not_null())
    index = rows["row"].to_numpy()
    alike = vectors["other"][index] @ vectors["prompt"][index].T >= threshold
    answers = vectors["completion"][index] @ vectors["completion"][index].T >= threshold
    numbers = [sorted(NUMBER.findall(f"{p} | {c}")) for p, c in rows.select("prompt", "completion").iter_rows()]
    same = np.eye(len(index), dtype=bool)
    wrong = alike & answers & ~same
    for i, j in zip(*np.nonzero(wrong), strict=True):
        wrong[i, j] = numbers[i] == numbers[j]
    return {
        "questions": len(index),
        "found": float(alike.diagonal().mean()),
        "prompt_of_another": float(alike[~same].mean()),
        "taken_for_another": float(wrong[~same].mean()),
        "questions_taken_for_another": float(wrong.any(1).mean()),
    }


def random_pairs(vectors: dict[str, Any], number: int = 2_000_000) -> dict[str, float]:
    """Share of pairs at random whose prompts and completions are alike, without looking at numbers."""
    left, right = np.random.default_rng(SEED).integers(len(vectors["prompt"]), size=(2, number))
    left, right = left[left != right], right[left != right]
    cosines = [
        np.concatenate([
            np.einsum("nd,nd->n", v[a], v[b])
            for a, b in zip(np.array_split(left, 100), np.array_split(right, 100), strict=True)
        ])
        for v in (vectors["prompt"], vectors["completion"])
    ]  # fmt: skip
    both = np.minimum(*cosines)
    return {"pairs": len(left)} | {f"{threshold}": float((both >= threshold).mean()) for threshold in THRESHOLDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("embed", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path, nargs="?")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if arguments.command == "embed":
        embed(arguments.folder)
        return
    found = measure(arguments.folder)
    text = json.dumps(found, indent=1) + "\n"
    if arguments.output:
        arguments.output.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
