"""How often the source of a prompt is found, how fast, and whether prompts of an unknown source are told.

    OMP_NUM_THREADS=1 python benchmarks/studies/prompt_classifier.py

The documents are those of `study_data` (six corpora, 1,000 training and 350 test documents of each). For unknown
sources, each corpus in turn is left out of training: doubt is 1 - the probability of the predicted source.
"""

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
from sklearn.metrics import roc_auc_score
from study_data import SOURCES, draw_documents

from analysis.experts.prompt_classifier import PromptClassifier

RESULTS = Path(__file__).parents[1] / "results" / "prompt_classifier.json"
DOUBTS = (0.05, 0.1, 0.3, 0.5)


def known_sources(training: pl.DataFrame, test: pl.DataFrame) -> dict[str, Any]:
    """Accuracy on test prompts, by source, and CPU seconds of learning and reading."""
    started = time.process_time()
    classifier = PromptClassifier().fit(training["prompt"], training["source"])
    fitted = time.process_time()
    classifier.assign(training["prompt"])
    read = time.process_time()
    found = test.with_columns(predicted=pl.Series(classifier.predict(test["prompt"])))
    right = (pl.col("source") == pl.col("predicted")).mean()
    by_source = found.group_by("source").agg(accuracy=right).sort("source")
    return {
        "validation_accuracy": classifier.validation_.accuracy,
        "test_accuracy": classifier.measure(test["prompt"], test["source"]).accuracy,
        "test_accuracy_by_source": dict(by_source.iter_rows()),
        "fit_cpu_seconds": fitted - started,
        "documents_per_cpu_second": len(training) / (read - fitted),
        "mean_characters": training["prompt"].str.len_chars().mean(),
    }


def unknown_source(training: pl.DataFrame, test: pl.DataFrame, source: str) -> dict[str, Any]:
    """Whether doubt tells test prompts of a source that training left out."""
    known = training.filter(pl.col("source") != source)
    classifier = PromptClassifier().fit(known["prompt"], known["source"])
    doubts, is_unknown = classifier.assign(test["prompt"])[1], (test["source"] == source).to_numpy()
    shares = {
        str(limit): {
            "unknown": float((doubts[is_unknown] > limit).mean()),
            "known": float((doubts[~is_unknown] > limit).mean()),
        }
        for limit in DOUBTS
    }
    return {"source": source, "auc": float(roc_auc_score(is_unknown, doubts)), "share_above": shares}


def main() -> None:
    documents = draw_documents()
    training, test = (documents.filter(pl.col("part") == part) for part in ("train", "test"))
    result = {
        "known": known_sources(training, test),
        "unknown": [unknown_source(training, test, source) for source in SOURCES],
        "versions": {name: version(name) for name in ("scikit-learn", "numpy", "polars")},
        "seed": 0,
    }
    print(json.dumps(result, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
