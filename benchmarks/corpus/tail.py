"""The tail of small tasks: what it holds on six corpora, what changes it, and CPU time and memory by number of rows.

    OMP_NUM_THREADS=1 python benchmarks/corpus/tail.py

Reads `HYDRALORA_CORPORA` (default `../shared/corpora`), writes results/tail.json.

"six" is the training part of the study of experts (6,000 documents). For the sizes, documents of all corpora are drawn,
each size in a process of its own; "unsampled" finds communities among all rows.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))

import numpy as np
import polars as pl

from analysis.clusters import tail
from analysis.features.joint import JointFeatures
from analysis.features.lsa import TfidfLsa
from analysis.text.pairs import SEPARATOR

RESULT = Path(__file__).parents[1] / "results" / "tail.json"
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", Path(__file__).resolve().parents[3] / "shared" / "corpora"))
SIZES = (6_000, 20_000, 80_000)
UNSAMPLED = 20_000
Rows = np.ndarray


def features(prompts: list[str], answers: list[str]) -> dict[str, Rows]:
    """Rows of both kinds of features that need no base model."""
    pairs = [SEPARATOR.join(pair) for pair in zip(prompts, answers, strict=True)]
    return {
        "tfidf": TfidfLsa(32).fit(prompts).transform(prompts),
        "joint_words": JointFeatures().fit(pairs).transform(pairs),
    }


def overlap(a: Rows, b: Rows) -> float:
    """Documents in both tails over documents in one of them."""
    return float((a & b).sum() / max((a | b).sum(), 1))


def on_six() -> dict[str, Any]:
    """The tail of "six" by tokens, bytes and words; in another order; with another seed; learnt from one half."""
    from study_data import draw_documents, tokenised

    documents = draw_documents().filter(pl.col("part") == "train")
    _, lengths, starts = tokenised(documents)
    tokens, answers = lengths - starts, documents["completion"]
    units = {"bytes": answers.str.len_bytes().to_numpy(), "words": tail.answer_lengths(answers)}
    found: dict[str, Any] = {}
    for kind, rows in features(documents["prompt"].to_list(), answers.to_list()).items():
        by_tokens = tail.small_communities(rows, tokens)
        of_row = tail.communities_in_order(rows)
        order = np.random.default_rng(1).permutation(len(rows))
        few = rows[order[:1200]], tokens[order[:1200]]
        sources = documents.filter(pl.Series(by_tokens))["source"].value_counts().sort("source")
        found[kind] = {
            "share_of_documents": float(by_tokens.mean()),
            "share_of_answer_tokens": float(tokens[by_tokens].sum() / tokens.sum()),
            "sources": dict(sources.iter_rows()),
            **{f"overlap_by_{name}": overlap(by_tokens, tail.small_communities(rows, n)) for name, n in units.items()},
            "same_in_another_order": bool(
                (tail.small_communities(rows[order], tokens[order]) == by_tokens[order]).all()
            ),
            "overlap_unsorted": overlap(by_tokens, tail.is_small(of_row, tokens)[of_row]),
            "overlap_seed_1": overlap(by_tokens, tail.small_communities(rows, tokens, random_state=1)),
            "overlap_seed_1_of_1200": overlap(*(tail.small_communities(*few, random_state=seed) for seed in (0, 1))),
            **halves(rows, tokens, by_tokens, order),
        }
        print(kind, json.dumps(found[kind]), flush=True)
    return found


def halves(rows: Rows, tokens: Rows, of_all: Rows, order: Rows) -> dict[str, float]:
    """Communities of one half place the other half: by the nearest community, and by most of 15 nearest documents."""
    from sklearn.neighbors import NearestNeighbors

    one, other = np.split(order, 2)
    known, of_row = tail.find_communities(rows[one], tokens[one])
    near = NearestNeighbors(n_neighbors=tail.NEIGHBOURS).fit(rows[one]).kneighbors(rows[other], return_distance=False)
    by_neighbours = known.is_small[of_row][near].mean(axis=1) > 0.5
    return {
        "as_all_documents_nearest_community": float((known.in_tail(rows[other]) == of_all[other]).mean()),
        "as_all_documents_most_neighbours": float((by_neighbours == of_all[other]).mean()),
        "as_all_documents_the_half_itself": float((known.is_small[of_row] == of_all[one]).mean()),
    }


def of_size(n: int, kind: str, unsampled: bool) -> dict[str, Any]:
    """CPU seconds and memory above that of the rows."""
    rows, lengths = drawn(n)[kind]
    if unsampled:
        tail.SAMPLE = n
    before, start, wall = _peak(), time.process_time(), time.perf_counter()
    found = tail.small_communities(rows, lengths)
    seconds = {"cpu_seconds": round(time.process_time() - start, 1), "seconds": round(time.perf_counter() - wall, 1)}
    return {
        "n": n,
        "kind": kind,
        "unsampled": unsampled,
        **seconds,
        "more_memory_mb": round((_peak() - before) / 1024),
        "share_of_documents": float(found.mean()),
    }


def drawn(n: int) -> dict[str, tuple[Rows, Rows]]:
    """Features of `n` documents of all corpora, and the bytes of their answers."""
    tables = []
    for path in sorted(CORPORA.glob("*.parquet")):
        table = pl.read_parquet(path)
        if "instruction" in table.columns:
            prompt = pl.concat_str("instruction", "input", separator="\n", ignore_nulls=True)
            tables.append(table.select(prompt=prompt, answer="output"))
        elif "question" in table.columns:
            tables.append(table.select(prompt="question", answer=pl.concat_str("A", "B", "C", "D", separator=" ")))
    documents = pl.concat(tables).drop_nulls().unique(maintain_order=True).sample(n, shuffle=True, seed=0)
    lengths = documents["answer"].str.len_bytes().to_numpy()
    made = features(documents["prompt"].to_list(), documents["answer"].to_list())
    return {kind: (rows, lengths) for kind, rows in made.items()}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", help="one size, as JSON; for the script itself")
    parser.add_argument("--six", action="store_true", help="measure only six again")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(of_size(**json.loads(arguments.one))))
        return
    if arguments.six:
        RESULT.write_text(json.dumps(json.loads(RESULT.read_text()) | {"six": on_six()}, indent=1) + "\n")
        return
    cases = [{"n": n, "kind": kind, "unsampled": False} for n in SIZES for kind in ("tfidf", "joint_words")]
    cases += [{"n": UNSAMPLED, "kind": kind, "unsampled": True} for kind in ("tfidf", "joint_words")]
    sizes = []
    for case in cases:
        command = [sys.executable, __file__, "--one", json.dumps(case)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        sizes.append(json.loads(said.splitlines()[-1]))
        print(sizes[-1], flush=True)
    result = {"sample": tail.SAMPLE, "sizes": sizes, "six": on_six()}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
