"""Does the number of experts hang on a seed? Three sources whose prompts are told about as often as is asked for.

    OMP_NUM_THREADS=1 python benchmarks/studies/group_decision.py benchmarks/results/group_decision.json

530 prompts of MedQuAD, 409 of Dolly and 349 of GSM8K, drawn three times; each draw in 20 orders with 20 seeds.
"""

import argparse
from pathlib import Path
from typing import Any

import polars as pl
from study_data import CORPORA

from analysis.experts.grouping import choose_grouping
from hydralora.training.outputs.record import write_json

SIZES = {"medquad": 530, "dolly15k": 409, "gsm8k": 349}
DRAWS, SEEDS = 3, 20


def prompts_of(name: str, size: int, seed: int) -> pl.DataFrame:
    """A sample of the training prompts of a corpus."""
    table = pl.read_parquet(CORPORA / f"{name}_train.parquet")
    prompt = pl.concat_str("instruction", pl.col("input").fill_null(""), separator="\n").str.strip_chars()
    return table.select(prompt=prompt, source=pl.lit(name), task=pl.lit(None, pl.String)).sample(size, seed=seed)


def decisions(documents: pl.DataFrame) -> dict[str, Any]:
    """Kinds and numbers of groups over seeds and orders, and the range of the cross-validated accuracy."""
    found = [
        choose_grouping(documents.sample(fraction=1, shuffle=True, seed=seed), 2, random_state=seed)
        for seed in range(SEEDS)
    ]
    accuracies = [g.classifier.validation_.accuracy for g in found if g.classifier is not None]
    answers = [f"{len(g.groups)} {g.kind}s" for g in found]
    return {
        "answers": {answer: answers.count(answer) for answer in sorted(set(answers))},
        "accuracy": [min(accuracies, default=None), max(accuracies, default=None)],
        "reasons": sorted({g.reason for g in found}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    output: Path = parser.parse_args().output
    draws = [pl.concat(prompts_of(name, size, draw) for name, size in SIZES.items()) for draw in range(DRAWS)]
    result = {"sizes": SIZES, "seeds_and_orders": SEEDS, "draws": [decisions(documents) for documents in draws]}
    write_json(output, result)
    for draw in result["draws"]:
        print(draw["answers"], draw["accuracy"])


if __name__ == "__main__":
    main()
