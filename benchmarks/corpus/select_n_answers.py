"""Would answers or a shared template tell single tasks from mixes? Measurements of rules that were not taken.

    POLARS_MAX_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/corpus/select_n_answers.py --part development
    POLARS_MAX_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/corpus/select_n_answers.py --part held-out

writes benchmarks/results/select_n_answers.json: how many corpora of each group have N > 1 under each rule of `RULES`,
and the measurements. The limits were set on the development part; docs/results/selection.md has the result.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import corpus_mixes as mixes
import grammar_tasks
import numpy as np
import polars as pl
from numpy.typing import NDArray
from select_n import families, one_part_pools

from analysis.clusters.choice.structure import MIN_SHARED, MIN_WORDS, explained_by, vocabulary_halves
from analysis.clusters.kmeans import sweep_kmeans
from analysis.features.lsa import TfidfLsa
from analysis.text.terms.tfidf import Tfidf
from analysis.text.words import words
from hydralora.training.outputs.record import write_json
from tests.analysis.languages import WORDS, documents

RESULT = Path(__file__).parents[1] / "results" / "select_n_answers.json"
SAMPLE, SIZE = 512, 1000
WRAPPER_WORDS, WRAPPER_SHARE = 4, 0.9  # words in a row that so many prompts have: not part of a template
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}{}\n\n### Response:"
)
FIELDS = "Task: {}\nText: {}\nAnswer:"
# Each rule is a second condition for N > 1, beside the words: True means N = 1.
RULES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "words alone": lambda row: False,
    "answers": lambda row: row["told"] < 0.07,
    "answers, few words": lambda row: row["told"] < 0.07 and row["words"] < MIN_WORDS,
    "answers, 30% in common": lambda row: row["told"] < 0.07 and row["common"] >= 0.3,
    "answers, 35% in common": lambda row: row["told"] < 0.07 and row["common"] >= 0.35,
}
Labels = NDArray[np.int32]
Corpus = tuple[str, str, list[mixes.Document]]


def measured(found: list[mixes.Document]) -> dict[str, Any]:
    """Strength by words; and of eight clusters, what they tell about the answers and what all have in common."""
    prompts, answers = [prompt for prompt, _ in found], [answer for _, answer in found]
    *halves, n_words = vocabulary_halves(prompts)
    weights = np.ones(len(prompts))
    sweeps = [sweep_kmeans(half, range(1, max(MIN_SHARED) + 1), sample_weight=weights) for half in halves]
    strength = 0.0
    for k, limit in MIN_SHARED.items():
        labellings = [sweep.labels[min(k, len(sweep.labels)) - 1] for sweep in sweeps]
        of_other = [explained_by(half, one, weights) for half, one in zip(halves, labellings[::-1], strict=True)]
        strength = max(strength, float(np.mean(of_other)) / limit)
    row = {"strength": round(strength, 3), "words": n_words}
    if strength < 1:
        return row
    rows = np.sort(np.random.default_rng(0).permutation(len(prompts))[:SAMPLE])
    prompts, answers = [prompts[i] for i in rows], [answers[i] for i in rows]
    labellings = [labels[rows] for labels in labellings]
    in_common = [
        float(np.mean([words_in_common(texts, labels) for labels in labellings]))
        for texts in (prompts, without_wrapper(prompts))
    ]
    return {**row, "told": round(told(answers, labellings), 3), "common": round(min(in_common), 3)}


def told(answers: list[str], labellings: list[Labels]) -> float:
    """Share of the variation of answers that clusters explain beyond chance: of first words, lengths or all words."""
    series, weights = pl.Series(answers), np.ones(len(answers))
    starts = series.str.extract(r"(\w+)").str.to_lowercase().fill_null("").to_numpy()
    features = [_indicators(starts), _indicators(np.floor(2 * np.log2(series.str.len_chars().to_numpy() + 1.0)))]
    if any(words(answers)):
        features.append(TfidfLsa().fit(answers).transform(answers))
    return max(float(np.mean([explained_by(rows, labels, weights) for labels in labellings])) for rows in features)


def words_in_common(texts: list[str], labels: Labels) -> float:
    """For each word the share of texts that have it in the cluster with the fewest, summed; as a share of the mean
    number of different words of a text."""
    try:
        matrix = Tfidf().fit_transform(texts)
    except ValueError:  # no text has a word
        return 0.0
    matrix.data = np.ones(matrix.nnz)
    fewest = np.min([matrix[np.flatnonzero(labels == label)].mean(axis=0) for label in np.unique(labels)], axis=0)
    return float(fewest.sum() * len(texts) / matrix.nnz)


def without_wrapper(texts: list[str]) -> list[str]:
    """The words of each text, without runs of `WRAPPER_WORDS` that `WRAPPER_SHARE` of all texts have."""
    found = list(words(texts))
    runs = [list(zip(*(document[i:] for i in range(WRAPPER_WORDS)), strict=False)) for document in found]
    counts = Counter(chain.from_iterable(map(set, runs)))
    wrapper = {run for run, n in counts.items() if n >= WRAPPER_SHARE * len(texts)}
    rest = []
    for document, own in zip(found, runs, strict=True):
        inside = {start + i for start, run in enumerate(own) if run in wrapper for i in range(WRAPPER_WORDS)}
        rest.append(" ".join(word for place, word in enumerate(document) if place not in inside))
    return rest


def _indicators(values: NDArray[Any]) -> NDArray[np.float32]:
    """[n, k], one column for each of the 64 most frequent values."""
    _, members, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return (members[:, None] == np.argsort(-sizes, kind="stable")[:64]).astype(np.float32)


def wrapped(found: list[mixes.Document], wrapper: str) -> list[mixes.Document]:
    return [(wrapper.format(text[: len(text) // 2], text[len(text) // 2 :]), answer) for text, answer in found]


def alone(name: str, pool: mixes.Pool) -> Iterator[Corpus]:
    for task in sorted(pool):
        yield name, task, mixes.draw({task: pool[task]}, 1, 2000, 1, (1,)).documents


def mixed(
    name: str, pool: mixes.Pool, parts: tuple[int, ...], draws: int, size: int, *wrappers: str
) -> Iterator[Corpus]:
    for n_parts in parts:
        for repeat in range(draws):
            mix = mixes.draw(pool, n_parts, size, 1, (n_parts, repeat, 79))
            yield name, ", ".join(mix.names), mix.documents
            for wrapper in wrappers:
                yield f"{name}, wrapped", ", ".join(mix.names), wrapped(mix.documents, wrapper)


def development() -> Iterator[Corpus]:
    grammars, legal = grammar_tasks.pool(), mixes.legal_tasks()
    yield from alone("one grammar", grammars)
    yield from mixed("two to four grammars", grammars, (2, 3, 4), 10, 500)
    yes_or_no = {k: v for k, v in legal.items() if {answer.strip().lower() for _, answer in v} <= {"yes", "no"}}
    yield from mixed("yes-or-no legal tasks", yes_or_no, (2, 3, 4, 6, 8), 4, SIZE, FIELDS)
    for language in WORDS:
        texts = documents(language).texts
        yield (
            "four subjects of 38 words",
            language,
            [(text, f"({'ABCD'[i * 7 // 3 % 4]})") for i, text in enumerate(texts)],
        )
    pool = families()["development: data sets"].pool
    yield from mixed("data sets", pool, tuple(range(2, 11)), 2, SIZE, ALPACA)
    yield from mixed("legal tasks", legal, tuple(range(2, 11)), 2, SIZE)


def held_out() -> Iterator[Corpus]:
    pools = one_part_pools()
    yield from alone("one task", pools["held out: one task"])
    yield from alone("one BBH task", pools["held out: one BBH task"])
    yield from mixed("two to four BBH tasks", mixes.bbh_tasks(), (2, 3, 4), 15, 500)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("development", "held-out"), required=True)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    start = time.process_time()
    groups: dict[str, list[dict[str, Any]]] = {}
    for group, name, found in development() if arguments.part == "development" else held_out():
        groups.setdefault(group, []).append({"name": name, **measured(found)})
        if len(groups[group]) % 10 == 1:
            print(group, name, round(time.process_time() - start), "s", flush=True)
    several = {
        group: {
            "corpora": len(rows),
            **{name: sum(row["strength"] >= 1 and not rule(row) for row in rows) for name, rule in RULES.items()},
        }
        for group, rows in groups.items()
    }
    output = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    seconds = round(time.process_time() - start)
    output[arguments.part] = {"cpu_seconds": seconds, "several": several, "corpora": groups}
    write_json(arguments.output, output)
    print(json.dumps(several, indent=1))


if __name__ == "__main__":
    main()
