"""Does the head and the tail of a long prompt tell its domain as the whole prompt does, and in which time?

    python benchmarks/method/long_prompts.py --corpora ../shared/corpora

Fits the classifier of prompts on the training parts of the corpora, and predicts held-out prompts: whole, and cut to
the first and last characters as `hydralora serve` cuts them. Long prompts are rare there, so that prompts are also
made long: a document of another prompt of the same corpus before each, and of another corpus (as a retrieved text).
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from analysis.experts.prompt_classifier import PromptClassifier
from analysis.text.normalisation import normalised_text
from hydralora.training.outputs.record import environment
from pipelines.serving.setup.exports import cut

RESULTS = Path(__file__).parents[1] / "results" / "long_prompts.json"
CORPORA = ("dolly15k", "gsm8k", "legalbench", "medquad", "mbpp", "pubmedqa")
LIMITS = (1_000, 2_000, 4_000, 8_000)
PROMPTS, LONG = 300, 20_000


def prompts_of(corpora: Path, corpus: str, split: str) -> pl.Series:
    table = pl.read_parquet(corpora / f"{corpus}_{split}.parquet")
    text = pl.concat_str("instruction", "input", separator="\n\n", ignore_nulls=True).str.strip_chars()
    return table.select(prompt=text).to_series()


def made_long(prompts: list[str], others: list[str], rng: np.random.Generator) -> list[str]:
    """Each prompt behind other texts, until it has 20,000 characters."""
    found = []
    for prompt in prompts:
        text = ""
        while len(text) < LONG - len(prompt):
            text += str(others[rng.integers(len(others))]) + "\n\n"
        found.append(text + prompt)
    return found


def measured(classifier: PromptClassifier, texts: list[str], labels: list[str], limit: int | None) -> dict[str, Any]:
    began = time.process_time()
    found = [classifier.assign_one(normalised_text(text if limit is None else cut(text, limit)))[0] for text in texts]
    seconds = time.process_time() - began
    right = np.mean([classifier.classes_[group] == label for group, label in zip(found, labels, strict=True)])
    return {"limit": limit, "right": round(float(right), 4), "milliseconds": round(1000 * seconds / len(texts), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True)
    corpora: Path = parser.parse_args().corpora
    train = {name: prompts_of(corpora, name, "train") for name in CORPORA}
    labels = [name for name, prompts in train.items() for _ in prompts]
    classifier = PromptClassifier(sample_size=6_000).fit(pl.concat(list(train.values())), labels)
    test = {name: prompts_of(corpora, name, "test").head(PROMPTS).to_list() for name in CORPORA}
    rng = np.random.default_rng(0)
    everything = [text for texts in train.values() for text in texts.head(500)]
    kinds = {
        "as they are": [(name, text) for name, texts in test.items() for text in texts],
        "above 2,000 characters, as they are": [
            (name, text) for name in CORPORA for text in train[name].filter(train[name].str.len_chars() > 2_000)
        ],
        "20,000 characters of the same corpus": [
            (name, text) for name, texts in test.items() for text in made_long(texts[:50], train[name].to_list(), rng)
        ],
        "20,000 characters, the text before it of any corpus": [
            (name, text) for name, texts in test.items() for text in made_long(texts[:50], everything, rng)
        ],
    }
    rows = []
    for kind, pairs in kinds.items():
        names, texts = (list(part) for part in zip(*pairs, strict=True))
        for limit in (None, *LIMITS):
            rows.append({"prompts": kind, "n": len(texts), **measured(classifier, texts, names, limit)})
            print(rows[-1], flush=True)
    RESULTS.write_text(json.dumps({"rows": rows, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
