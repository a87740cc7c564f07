"""Token ids of the corpora, small enough to travel to a GPU machine that has no corpora and no tokenizer.

    python benchmarks/training/end_to_end_documents.py documents.npz    # 4,800 documents, under 3 MB

Reads six corpora from `HYDRALORA_CORPORA`, equally many documents of each, with the tokenizer of the embedded base
model. `end_to_end_speed.py` reads the result.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from transformers import AutoTokenizer

from hydralora.base_model import provision_embedded_base_model
from hydralora.data import tokenise

REPOSITORY = Path(__file__).resolve().parents[2]
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", REPOSITORY.parent / "shared" / "corpora"))
SOURCES = ("dolly15k", "gsm8k", "medquad", "legalbench", "mbxp", "flan10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--per-source", type=int, default=800)
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = []
    for source in SOURCES:
        table = pq.read_table(CORPORA / f"{source}_train.parquet").to_pylist()
        order = np.random.default_rng(arguments.seed).permutation(len(table))[: arguments.per_source]
        rows += [
            {
                "prompt": "\n".join(filter(None, (table[i]["instruction"], table[i]["input"]))),
                "completion": table[i]["output"],
                "source": source,
            }
            for i in order.tolist()
        ]
    tokenizer = AutoTokenizer.from_pretrained(provision_embedded_base_model())
    documents = tokenise(rows, tokenizer, template="plain", max_length=arguments.max_length)
    np.savez_compressed(
        arguments.output,
        tokens=np.concatenate(documents.column("input_ids")).astype(np.uint16),
        lengths=documents.lengths.astype(np.uint16),
        answer_start=np.array(documents.column("answer_start"), dtype=np.uint16),
        source=np.array([SOURCES.index(source) for source in documents.column("source")], dtype=np.uint8),
        vocabulary=np.array(len(tokenizer)),
    )
    print(
        f"{len(documents)} documents of {documents.lengths.mean():.0f} tokens, {arguments.output.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
