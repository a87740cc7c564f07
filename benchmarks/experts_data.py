"""Three mixes of corpora for the study of label-free experts, each as one .npz file.

    OMP_NUM_THREADS=1 python benchmarks/experts_data.py FOLDER

"six" is the mix of benchmarks/study_data.py, document for document. The other two were fixed before the first run and
nothing was tuned on them: "exams" (MMLU, PubMedQA, MBPP) and "flan" (ten clusters of Flan-like tasks, without the
documents of "six"; BIG-Bench Hard is measured beside them and never trained on, as its authors ask).
Groups of K-means and predicted sources are computed here from prompts alone; those of the hidden state need a GPU
(benchmarks/experts_study.py prepare).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from experts_mix import Ints, Mix
from study_data import CORPORA, PARTS, SEED, draw_documents, tokenised

from analysis.corpus.cleaning import CleanConfig, clean
from analysis.sources import FilesSource, read_sources
from analysis.sources.records import RECORD_SCHEMA

COLUMNS = ("source", "task", "prompt", "completion", "part")
TEST = PARTS["test"]
# Training and (at most) validation documents; what cleaning leaves of MBPP and PubMedQA is no more than that.
EXAMS = {"mmlu": (1000, 150), "pubmedqa": (410, 75), "mbpp": (320, 75)}
FLAN_TRAIN, FLAN_VALIDATION, UNSEEN_OF_TASK = 400, 30, 13
MAX_TERMS = 20_000
NUM_TAGS = 32  # "Group 0" to "Group 31"


def six() -> pl.DataFrame:
    """The documents of the study of experts, in its order."""
    return draw_documents().filter(pl.col("part") != "alone_train").select(COLUMNS)


def exams() -> pl.DataFrame:
    """Questions with four options, research questions with an abstract, and short programs."""
    files = {name: FilesSource((str(CORPORA / f"{name}_*.parquet"),)) for name in ("pubmedqa", "mbpp")}
    records = pl.concat([_mmlu().lazy(), read_sources(files).records])
    documents = clean(records, CleanConfig(detect_language=False)).documents.collect()
    chosen = []
    for source, (n_train, n_validation) in EXAMS.items():
        train, test = (_shuffled(documents.filter(source=source, split=split)) for split in ("train", "test"))
        chosen += [*_cut(train, n_train, n_validation), test[:TEST].with_columns(part=pl.lit("test"))]
    return pl.concat(chosen).select(COLUMNS)


def flan(used: pl.DataFrame) -> pl.DataFrame:
    """Each cluster of Flan-like tasks as a source, without the documents of `used`, and BIG-Bench Hard as "unseen"."""
    files = sorted(CORPORA.glob("flan10_*.parquet"))
    tables = pl.concat([pl.read_parquet(file) for file in files])
    cluster_of_task = dict(tables.select("task", pl.col("domain").str.strip_prefix("flan:")).unique().iter_rows())
    records = read_sources({"flan10": FilesSource(tuple(map(str, files)))}).records
    documents = clean(records, CleanConfig(detect_language=False)).documents.collect()
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
    return pl.concat([table.select(COLUMNS) for table in [*chosen, unseen]])


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


def groupings(prompts: list[str], sources: Ints, training: Any, facts: dict[str, Any]) -> dict[str, Ints]:
    """Groups of all documents, learnt from the prompts (and, of sources, the sources) of training documents."""
    from analysis.clusters.choice.selection import select_num_clusters
    from analysis.clusters.corpus_model import CorpusModel
    from analysis.clusters.kmeans import sweep_kmeans
    from analysis.experts.prompt_classifier import PromptClassifier
    from analysis.features.lsa import TfidfLsa

    known = [prompt for prompt, is_training in zip(prompts, training, strict=True) if is_training]
    features = TfidfLsa(128, random_state=SEED).fit(known)
    rows = features.transform(known)
    sweep = sweep_kmeans(rows, range(1, 21), n_init=10, random_state=SEED)
    choice = select_num_clusters(rows, sweep, known)
    facts["text"] = {
        "elbow": choice.value,
        "interval": choice.interval,
        "structure": choice.evidence.strength,
        "reason": choice.reason,
    }
    classifier = PromptClassifier().fit(known, sources[training])
    facts["source_accuracy_on_held_out_training_prompts"] = classifier.validation_.accuracy
    predicted = np.array([int(name) for name in classifier.predict(prompts)])
    labels = {"source": np.where(sources < sources[training].max() + 1, sources, predicted), "source_text": predicted}
    for name, k in (("lsa_k6", 6), ("lsa_elbow", choice.value)):
        labels[name] = CorpusModel(features, sweep.centers[sweep.index(k)]).assign(prompts)[0].astype(np.int64)
    labels["random_k6"] = np.random.default_rng(SEED).integers(6, size=len(prompts))
    return labels


def word_rows(prompts: list[str], training: Any) -> tuple[Any, Any, Ints]:
    """TF-IDF of words and pairs as the prompt classifier weighs them, sparse; fitted on training prompts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    known = [prompt for prompt, is_training in zip(prompts, training, strict=True) if is_training]
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=MAX_TERMS)
    rows = vectoriser.fit(known).transform(prompts)
    return rows.indices.astype(np.uint16), rows.data.astype(np.float16), rows.indptr[1:].astype(np.int64)


def build(name: str, documents: pl.DataFrame) -> Mix:
    """Tokens and groups of the documents of a mix."""
    from transformers import AutoTokenizer

    from hydralora.base_model import provision_embedded_base_model

    source_names = tuple(dict.fromkeys(documents.filter(pl.col("part") != "unseen")["source"]))
    source_names += tuple(s for s in dict.fromkeys(documents["source"]) if s not in source_names)
    tasks = documents.select(t=pl.concat_str("source", pl.col("task").fill_null(""), separator="/"))["t"]
    task_names = tuple(dict.fromkeys(tasks))
    sources = documents["source"].replace_strict(source_names, range(len(source_names))).to_numpy().astype(np.int64)
    parts = documents["part"].to_numpy().astype(np.str_)
    prompts = documents["prompt"].to_list()
    tokens, lengths, starts = tokenised(documents.select("source", "prompt", "completion", "part"))
    tokenizer = AutoTokenizer.from_pretrained(provision_embedded_base_model())
    facts: dict[str, Any] = {}
    labels = groupings(prompts, sources, parts == "train", facts)
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
        *word_rows(prompts, parts == "train"),
        facts,
    )
    test = np.isin(parts, ("test",))
    facts["source_accuracy_on_test_prompts"] = float((labels["source"] == labels["source_text"])[test].mean())
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
    of_six = six()
    for name, documents in (("six", of_six), ("exams", exams()), ("flan", flan(of_six))):
        build(name, documents).save(folder / f"{name}.npz")


if __name__ == "__main__":
    main()
