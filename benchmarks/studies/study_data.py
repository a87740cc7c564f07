"""The documents of the study of experts as arrays: tokens, parts, and gates.

Reads six corpora from `HYDRALORA_CORPORA` (default `../shared/corpora`), cleans them with the rules of
`analysis.corpus.cleaning`, and draws from each as many training, validation and test documents. A saved file is
all that a machine with a GPU needs beside the base model.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", REPOSITORY.parent / "shared" / "corpora"))
SOURCES = ("dolly15k", "flan10", "gsm8k", "legalbench", "mbxp", "medquad")
PARTS = {"train": 1000, "validation": 150, "test": 350}  # documents of each source
ALONE_TRAIN = 4500  # of the homogeneous corpus, those of the mix included
HOMOGENEOUS = "gsm8k"
MAX_LENGTH = 384
SEED = 0

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class StudyData:
    """Documents and their gates; every array but `tokens` has one entry (or row) for each document.

    Attributes:
        tokens: token ids of all documents, one after the other.
        lengths: tokens of each document.
        answer_starts: position of the first token of the answer.
        sources: index into `SOURCES`.
        parts: "train", "validation", "test", or "alone_train" (more of the homogeneous corpus).
        gates: name -> [n_documents, N].
    """

    tokens: NDArray[np.uint16]
    lengths: Ints
    answer_starts: Ints
    sources: Ints
    parts: NDArray[np.str_]
    gates: Mapping[str, Floats]

    def rows(self, indices: Ints, gates: str | None) -> list[dict[str, Any]]:
        """Documents as `hydralora.data.collate` takes them."""
        ends = np.cumsum(self.lengths)
        rows = []
        for i in indices:
            tokens = self.tokens[ends[i] - self.lengths[i] : ends[i]].astype(np.int64)
            rows.append({"input_ids": tokens, "answer_start": int(self.answer_starts[i])})
            if gates is not None:
                rows[-1]["expert_gates"] = self.gates[gates][i].tolist()
        return rows

    def fingerprint(self) -> str:
        """16 hex digits over all arrays."""
        digest = hashlib.blake2b(digest_size=8)
        for array in (self.tokens, self.lengths, self.answer_starts, self.sources, *self.gates.values()):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        arrays = {name: getattr(self, name) for name in ("tokens", "lengths", "answer_starts", "sources", "parts")}
        gates = {f"gates/{name}": values for name, values in self.gates.items()}
        np.savez_compressed(path, **arrays, **gates)

    @classmethod
    def load(cls, path: Path) -> Self:
        with np.load(path, allow_pickle=False) as file:
            gates = {name.removeprefix("gates/"): file[name] for name in file.files if name.startswith("gates/")}
            arrays = {name: file[name] for name in ("tokens", "lengths", "answer_starts", "sources", "parts")}
        return cls(**arrays, gates=gates)


def draw_documents() -> Any:
    """The documents of all parts as a polars table with the columns source, task, prompt, completion, part."""
    import polars as pl

    from analysis.corpus.cleaning import CleanConfig, clean
    from analysis.sources import FilesSource, read_sources

    records = read_sources({name: FilesSource((str(CORPORA / f"{name}_*.parquet"),)) for name in SOURCES}).records
    documents = clean(records, CleanConfig(detect_language=False)).documents.collect()
    chosen = []
    for source in SOURCES:
        train, test = (
            documents.filter(pl.col("source") == source, pl.col("split") == split).sample(
                fraction=1, shuffle=True, seed=SEED
            )
            for split in ("train", "test")
        )
        first, second = PARTS["train"], PARTS["train"] + PARTS["validation"]
        parts = {"train": train[:first], "validation": train[first:second], "test": test[: PARTS["test"]]}
        if source == HOMOGENEOUS:
            parts["alone_train"] = train[second : second + ALONE_TRAIN - PARTS["train"]]
        chosen += [table.with_columns(part=pl.lit(part)) for part, table in parts.items()]
        print(source, {part: len(table) for part, table in parts.items()}, flush=True)
    return pl.concat(chosen).select("source", "task", "prompt", "completion", "part")


def tokenised(
    documents: Any, max_length: int = MAX_LENGTH, base: str = "embedded"
) -> tuple[NDArray[np.unsignedinteger], Ints, Ints]:
    """Tokens, lengths and starts of answers, in the order of the documents."""
    from hydralora.base_model import load_tokenizer
    from hydralora.data import tokenise

    tokenizer: Any = load_tokenizer(base)
    rows = documents.drop("part").to_dicts()
    template: Any = "chat" if tokenizer.chat_template else "plain"
    tokens = tokenise(rows, tokenizer, template=template, max_length=max_length)
    if len(tokens) != len(rows):
        raise ValueError(f"expected an answer in each of {len(rows)} documents, got {len(tokens)} with one")
    print("tokens", int(tokens.lengths.sum()), tokens.counts, flush=True)
    kind = np.min_scalar_type(len(tokenizer) - 1)
    flat = np.concatenate([np.asarray(row, kind) for row in tokens.column("input_ids")])
    return flat, tokens.lengths, np.asarray(tokens.column("answer_start"), np.int64)
