"""Five mixes of corpora for the study of label-free experts, each as one .npz file.

    OMP_NUM_THREADS=1 python benchmarks/studies/experts_data.py FOLDER

"six" is the mix that ideas came from. The others were fixed before their first run and nothing was tuned on them:
"exams" (MMLU, PubMedQA, MBPP), "flan" (ten clusters of Flan-like tasks; BIG-Bench Hard is measured beside them and
never trained on, as its authors ask), and two in which small tasks with short answers stand beside large sources with
long ones: "wide" (Dolly, MedQuAD, LegalBench, MMLU) and "skills" (GSM8K, MBXP, Flan-like tasks). No training or
validation document of "six" is in "flan", "wide" or "skills", and none of "exams" in "wide"; further test documents of
one mix may be any part of another. "skills" shares documents of all parts with "flan".
Groups of words and predicted sources are computed here; those of the hidden state need a GPU
(benchmarks/studies/experts_study.py states).

Test documents are those of the test splits first, then at most `MORE` of each corpus from what is left, test splits
before training splits. Of the latter, what is nearly equal to another document of the mix, or shares a run of words
with one, is left out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from experts_groups import Labels, at_elbow, information, told_by_words
from experts_mix import Ints, Mix
from study_data import CORPORA, PARTS, SEED, SOURCES, draw_documents, tokenised

from analysis.corpus.cleaning import CleanConfig, clean
from analysis.sources import FilesSource, read_sources
from analysis.sources.records import RECORD_SCHEMA

COLUMNS = ("source", "task", "prompt", "completion", "part")
TEST = PARTS["test"]
# Training and (at most) validation documents; what cleaning leaves of MBPP and PubMedQA is no more than that.
EXAMS = {"mmlu": (1000, 150), "pubmedqa": (410, 75), "mbpp": (320, 75)}
FLAN_TRAIN, FLAN_VALIDATION, UNSEEN_OF_TASK = 400, 30, 13
MORE = {"six": 650, "exams": 650, "flan": 350, "wide": 650, "skills": 650}
WIDE = ("dolly15k", "medquad", "legalbench", "mmlu")
SKILLS = ("gsm8k", "mbxp", "flan10")
NUM_TAGS = 32  # "Group 0" to "Group 31"


def six() -> tuple[pl.DataFrame, pl.DataFrame]:
    """The documents of the study of experts, in its order; and all documents of its corpora."""
    return draw_documents().filter(pl.col("part") != "alone_train").select(COLUMNS), _cleaned(_read(SOURCES))


def _read(sources: Sequence[str]) -> pl.LazyFrame:
    return read_sources({name: FilesSource((str(CORPORA / f"{name}_*.parquet"),)) for name in sources}).records


def _cleaned(records: pl.LazyFrame) -> pl.DataFrame:
    return clean(records, CleanConfig(detect_language=False)).documents.collect()


def exams() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Questions with four options, research questions with an abstract, and short programs; and all documents."""
    documents = _cleaned(pl.concat([_mmlu().lazy(), _read(("pubmedqa", "mbpp"))]))
    chosen = []
    for source, (n_train, n_validation) in EXAMS.items():
        train, test = (_shuffled(documents.filter(source=source, split=split)) for split in ("train", "test"))
        chosen += [*_cut(train, n_train, n_validation), test[:TEST].with_columns(part=pl.lit("test"))]
    return pl.concat(chosen).select(COLUMNS), documents


def of_sources(pool: pl.DataFrame, sources: Sequence[str], used: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """As many documents of each source as "six" has, without those of `used`; and all documents of these sources."""
    documents = pool.filter(pl.col("source").is_in(sources)).join(used, on=["prompt", "completion"], how="anti")
    chosen = []
    for source in sources:
        train, test = (_shuffled(documents.filter(source=source, split=split)) for split in ("train", "test"))
        chosen += [*_cut(train, PARTS["train"], PARTS["validation"]), test[:TEST].with_columns(part=pl.lit("test"))]
    return pl.concat(chosen).select(COLUMNS), documents


def flan(used: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Each cluster of Flan-like tasks as a source, without the documents of `used`, and BIG-Bench Hard as "unseen"; and
    all documents.
    """
    files = sorted(CORPORA.glob("flan10_*.parquet"))
    tables = pl.concat([pl.read_parquet(file) for file in files])
    cluster_of_task = dict(tables.select("task", pl.col("domain").str.strip_prefix("flan:")).unique().iter_rows())
    documents = _cleaned(_read(("flan10",)))
    documents = documents.join(used, on=["prompt", "completion"], how="anti")
    documents = documents.with_columns(source=pl.col("task").replace_strict(cluster_of_task))
    chosen = []
    for source in sorted(set(cluster_of_task.values())):
        train, test = (_shuffled(documents.filter(source=source, split=split)) for split in ("train", "test"))
        chosen += [*_cut(train, FLAN_TRAIN, FLAN_VALIDATION), test.with_columns(part=pl.lit("test"))]
    bbh = pl.read_parquet(CORPORA / "bbh_test.parquet").filter(pl.col("target").str.len_chars() > 0)
    unseen = _shuffled(bbh).group_by("task", maintain_order=True).head(UNSEEN_OF_TASK)
    unseen = unseen.select(
        source=pl.lit("bbh"), task="task", prompt="input", completion="target", part=pl.lit("unseen")
    )
    return pl.concat([table.select(COLUMNS) for table in [*chosen, unseen]]), documents


def with_more(documents: pl.DataFrame, pool: pl.DataFrame, number: int) -> pl.DataFrame:
    """The documents, and behind them at most `number` further test documents of each source."""
    left = pool.join(documents, on=["prompt", "completion"], how="anti")
    columns = list(RECORD_SCHEMA)
    # To clean a pool in which our documents are the test split drops what is nearly one of them.
    known = documents.filter(pl.col("part") != "unseen").with_columns(
        licence=pl.lit(""), origin=pl.lit(""), split=pl.lit("test")
    )
    candidates = left.with_columns(split=pl.lit("train"), origin=pl.col("split"), licence=pl.lit(""))
    tables = [table.select(columns).match_to_schema(RECORD_SCHEMA) for table in (known, candidates)]
    kept = _cleaned(pl.concat(tables).lazy()).filter(split="train")
    ordered = _shuffled(kept).sort("source", "origin", maintain_order=True)  # "test" before "train"
    more = ordered.group_by("source", maintain_order=True).head(number).with_columns(part=pl.lit("test"))
    return pl.concat([documents, more.select(COLUMNS)])


def _mmlu() -> pl.DataFrame:
    """MMLU's test questions as records: the options below the question, the letter and its text as the answer."""
    table = pl.read_parquet(CORPORA / "mmlu_test.parquet")
    options = [pl.format("{}. {}", pl.lit(letter), pl.col(letter)) for letter in "ABCD"]
    answer = pl.coalesce([pl.when(pl.col("answer") == letter).then(pl.col(letter)) for letter in "ABCD"])
    held_out = pl.int_range(pl.len()).shuffle(seed=SEED) < 2 * TEST
    return table.select(
        source=pl.lit("mmlu"),
        task="subject",
        split=pl.when(held_out).then(pl.lit("test")).otherwise(pl.lit("train")),
        prompt=pl.concat_str([pl.col("question"), *options], separator="\n"),
        completion=pl.format("{}. {}", "answer", answer),
        licence="licence",
        origin="source_url",
    ).match_to_schema(RECORD_SCHEMA)


def _shuffled(table: pl.DataFrame) -> pl.DataFrame:
    return table.sample(fraction=1, shuffle=True, seed=SEED)


def _cut(table: pl.DataFrame, n_train: int, n_validation: int) -> list[pl.DataFrame]:
    parts = {"train": table[:n_train], "validation": table[n_train : n_train + n_validation]}
    if len(parts["validation"]) < 20:
        raise ValueError(f"expected at least {n_train + 20} documents, got {len(table)}")
    return [rows.with_columns(part=pl.lit(part)) for part, rows in parts.items()]


def groupings(prompts: list[str], answers: list[str], sources: Ints, training: Any, facts: dict[str, Any]) -> Labels:
    """Groups of all documents, learnt from training documents; of others, the prompt alone tells them."""
    from analysis.features.joint import JointFeatures
    from analysis.features.lsa import TfidfLsa
    from analysis.text.pairs import SEPARATOR

    pairs = [SEPARATOR.join(pair) for pair in zip(prompts, answers, strict=True)]
    told = told_by_words(prompts, sources[training], training)
    labels = {
        "source": np.where(sources <= sources[training].max(), sources, told),
        "source_text": told,
        "tfidf": at_elbow("tfidf", TfidfLsa(128, random_state=SEED), prompts, prompts, training, facts),
        "joint_words": at_elbow("joint_words", JointFeatures(), pairs, prompts, training, facts),
        "random": np.random.default_rng(SEED).integers(6, size=len(prompts)),
    }
    for name, groups in labels.items():
        rows = ~training & (sources <= sources[training].max())
        facts.setdefault(name, {})["information_about_source"] = information(groups[rows], sources[rows])
    return labels


def build(name: str, documents: pl.DataFrame) -> Mix:
    """Tokens and groups of the documents of a mix."""
    from hydralora.base_model import load_tokenizer

    source_names = tuple(dict.fromkeys(documents.filter(pl.col("part") != "unseen")["source"]))
    source_names += tuple(s for s in dict.fromkeys(documents["source"]) if s not in source_names)
    tasks = documents.select(t=pl.concat_str("source", pl.col("task").fill_null(""), separator="/"))["t"]
    task_names = tuple(dict.fromkeys(tasks))
    sources = documents["source"].replace_strict(source_names, range(len(source_names))).to_numpy().astype(np.int64)
    parts = documents["part"].to_numpy().astype(np.str_)
    tokens, lengths, starts = tokenised(documents.select("source", "prompt", "completion", "part"))
    tokenizer: Any = load_tokenizer()
    facts: dict[str, Any] = {}
    texts = documents["prompt"].to_list(), documents["completion"].to_list()
    labels = groupings(*texts, sources, parts == "train", facts)
    mix = Mix(
        name,
        tokens,
        lengths,
        starts,
        sources,
        tasks.replace_strict(task_names, range(len(task_names))).to_numpy().astype(np.int64),
        parts,
        source_names,
        task_names,
        labels,
        tuple(tuple(tokenizer(f"Source: {s}\n", add_special_tokens=False).input_ids) for s in source_names),
        tuple(tuple(tokenizer(f"Group: {k}\n", add_special_tokens=False).input_ids) for k in range(NUM_TAGS)),
        _common_start(tokens, lengths),
        facts,
    )
    counts = {part: int((parts == part).sum()) for part in np.unique(parts)}
    print(name, counts, "training tokens", int(lengths[parts == "train"].sum()), facts, flush=True)
    return mix


def _common_start(tokens: Any, lengths: Ints) -> int:
    """Tokens that all documents start with: what the template puts before a prompt."""
    starts = np.cumsum(lengths) - lengths
    place = 0
    while len(np.unique(tokens[starts + place])) == 1:
        place += 1
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    of_six, of_exams = six(), exams()
    used = pl.concat([of_six[0], of_exams[0]])
    pool = pl.concat([of_six[1], of_exams[1].filter(source="mmlu")])
    mixes = {
        "six": of_six,
        "exams": of_exams,
        "flan": flan(of_six[0]),
        "wide": of_sources(pool, WIDE, used),
        "skills": of_sources(pool, SKILLS, used),
    }
    for name, (documents, pool) in mixes.items():
        build(name, with_more(documents, pool, MORE[name])).save(folder / f"{name}.npz")


if __name__ == "__main__":
    main()
