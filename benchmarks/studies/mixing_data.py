"""Two mixes of unequal corpora for the study of mixtures, and the parts of them that proxies train on.

    OMP_NUM_THREADS=1 python benchmarks/studies/mixing_data.py STATE        # writes STATE/mixes/*.npz, about 2 MB

"nine" has nine corpora in the proportions of their own sizes (34 to 1). "six" has the six largest ones with sizes in a
geometric series of 20 to 1, in an order drawn by a seed. Each has about `POOL` training documents. A proxy's mix has
every third training document of each corpus, so that a share repeats as many documents as in the whole mix.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from study_data import CORPORA, SEED, SOURCES, Ints, StudyData, tokenised

if TYPE_CHECKING:
    import polars as pl

NINE = tuple(sorted((*SOURCES, "mbpp", "mmlu", "pubmedqa")))
NAMES = {"nine": NINE, "six": SOURCES}  # mix -> its corpora, in the order of `StudyData.sources`
POOL, RATIO = 2000, 20
VALIDATION, TEST = 100, 200
LEAST = 8  # training documents of a corpus
PROXY, PROXY_SHARE = "_proxy", 3


def cleaned() -> "pl.DataFrame":
    """All documents of the nine corpora, in a random order."""
    import polars as pl
    from experts_data import _mmlu

    from analysis.corpus.cleaning import CleanConfig, clean
    from analysis.sources import FilesSource, read_sources

    files = {name: FilesSource((str(CORPORA / f"{name}_*.parquet"),)) for name in NINE if name != "mmlu"}
    records = pl.concat([_mmlu().lazy(), read_sources(files).records])
    documents = clean(records, CleanConfig(detect_language=False)).documents.collect()
    return documents.sample(fraction=1, shuffle=True, seed=SEED)


def natural_sizes(documents: "pl.DataFrame") -> dict[str, int]:
    """Training documents of each corpus that validation leaves."""
    counts = dict(documents.filter(split="train").group_by("source").len().iter_rows())
    return {name: counts[name] - VALIDATION for name in NINE}


def pool_sizes(mix: str, natural: dict[str, int]) -> dict[str, int]:
    """Training documents of each corpus in the mix."""
    names = NAMES[mix]
    raw = np.array([natural[name] for name in names], float)
    if mix == "six":
        raw = np.random.default_rng(SEED).permutation(np.geomspace(1, RATIO, len(names)))
    return {name: max(LEAST, round(size)) for name, size in zip(names, POOL * raw / raw.sum(), strict=True)}


def build(mix: str, documents: "pl.DataFrame", natural: dict[str, int]) -> StudyData:
    """Tokens of the training, validation and test documents of a mix."""
    import polars as pl

    chosen = []
    for source, size in pool_sizes(mix, natural).items():
        train, test = (documents.filter(source=source, split=split) for split in ("train", "test"))
        parts = {"train": train[VALIDATION:][:size], "validation": train[:VALIDATION], "test": test[:TEST]}
        chosen += [table.with_columns(part=pl.lit(part)) for part, table in parts.items()]
        print(mix, source, {part: len(table) for part, table in parts.items()}, flush=True)
    table = pl.concat(chosen).select("source", "prompt", "completion", "part")
    tokens, lengths, starts = tokenised(table)
    sources = table["source"].replace_strict(NAMES[mix], range(len(NAMES[mix]))).to_numpy().astype(np.int64)
    return StudyData(tokens, lengths, starts, sources, table["part"].to_numpy().astype(np.str_), {})


def proxy(data: StudyData) -> StudyData:
    """Every third training document of each corpus; validation documents whole; no test documents."""
    kept = data.parts == "validation"
    for source in np.unique(data.sources):
        kept[np.flatnonzero((data.parts == "train") & (data.sources == source))[::PROXY_SHARE]] = True
    return take(data, np.flatnonzero(kept))


def take(data: StudyData, indices: Ints) -> StudyData:
    """Some of the documents."""
    starts = np.cumsum(data.lengths) - data.lengths
    tokens = np.concatenate([data.tokens[starts[i] : starts[i] + data.lengths[i]] for i in indices])
    of_document = ("lengths", "answer_starts", "sources", "parts")
    return replace(data, tokens=tokens, **{name: getattr(data, name)[indices] for name in of_document})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    folder: Path = parser.parse_args().state / "mixes"
    folder.mkdir(parents=True, exist_ok=True)
    documents = cleaned()
    natural = natural_sizes(documents)
    print("training documents", natural, flush=True)
    for mix in NAMES:
        data = build(mix, documents, natural)
        data.save(folder / f"{mix}.npz")
        proxy(data).save(folder / f"{mix}{PROXY}.npz")


if __name__ == "__main__":
    main()
