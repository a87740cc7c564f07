"""Clusters and near duplicates of short texts in many languages and scripts.

    python benchmarks/corpus/scripts.py

The texts are translated messages of programs, as Debian's packages install them (git, postgresql-client, coreutils,
libglib2.0-data, libgtk2.0-common, libgtk-3-common). Writes results/scripts.json.
"""

import argparse
import gettext
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from analysis.clusters.choice.selection import select_num_clusters
from analysis.clusters.interpretation import agreement
from analysis.clusters.kmeans import sweep_kmeans
from analysis.corpus.cleaning import CleanConfig, clean
from analysis.features.lsa import TfidfLsa
from analysis.sources.records import RECORD_SCHEMA

RESULTS = Path(__file__).parents[1] / "results"
CATALOGUES = Path("/usr/share/locale")
LANGUAGES = ("de", "ru", "zh_CN", "ja", "ko", "tr", "th", "ar", "he", "hi", "fa", "fi")
KINDS = (
    *("git", "postgres-15", "coreutils", "gtk20-properties", "glib20", "dpkg"),
    *("xkeyboard-config", "iso_639-3", "shared-mime-info", "gtk30", "iso_3166-1", "gtk30-properties"),
)
"""Kinds of text for clusters. A language takes the first four of which it has `LEAST` documents of `SIZE` messages."""
SIZE, MOST, LEAST = 10, 120, 40
DOCUMENTS = 120
SHORT = (("glib20", 5), ("gtk30", 5), ("glib20", 3), ("gtk30", 3))
"""Program, and messages of a document, for near duplicates."""


def catalogue_of(language: str, program: str) -> Path:
    """The file of a program's translated messages."""
    return CATALOGUES / language / "LC_MESSAGES" / f"{program}.mo"


def messages(language: str, program: str, seed: int = 0, least: int = 1) -> list[tuple[str, str]]:
    """Messages of at least `least` characters, in English and in the language, shuffled."""
    with catalogue_of(language, program).open("rb") as file:
        catalogue = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    found = [
        (english, text)
        for key, text in sorted(catalogue.items(), key=str)
        if isinstance(key, str) and isinstance(text, str) and text and len(english := key.split("\x04")[-1]) >= least
    ]
    random.Random(seed).shuffle(found)
    return found


def near_duplicates_found(language: str, program: str, size: int) -> dict[str, Any]:
    """How many documents are dropped because they are another one without its middle character.

    "letters": the same for the documents that have a letter there.
    """
    texts = [text for _, text in messages(language, program, seed=1, least=15)]
    documents = [" ".join(texts[i : i + size]) for i in range(0, len(texts) - size + 1, size)][:DOCUMENTS]
    letters = [text for text in documents if text[len(text) // 2].isalpha()]
    characters = round(sum(map(len, documents)) / len(documents))
    found = {"texts": f"{size} of {program}", "of": len(documents), "found": _found(documents)}
    return found | {"letters": {"of": len(letters), "found": _found(letters)}, "characters": characters}


def _found(documents: list[str]) -> int:
    cut = [text[: len(text) // 2] + text[len(text) // 2 + 1 :] for text in documents]
    empty: dict[str, Any] = dict.fromkeys(RECORD_SCHEMA) | {"source": "messages", "completion": "ok", "split": "train"}
    records = pl.from_dicts([empty | {"prompt": text} for text in documents + cut], schema=RECORD_SCHEMA)
    dropped = clean(records.lazy(), CleanConfig(decontaminate=False, detect_language=False)).dropped
    return dropped.filter(pl.col("reason") == "near_duplicate").height


def clusters_found(language: str) -> dict[str, Any]:
    """N, and how well four clusters agree with four kinds of text; also for the same messages in English."""
    kinds: dict[str, list[list[tuple[str, str]]]] = {}
    for program in KINDS:
        if len(kinds) < 4 and catalogue_of(language, program).exists():
            pairs = messages(language, program)
            documents = [pairs[i : i + SIZE] for i in range(0, len(pairs) - SIZE + 1, SIZE)][:MOST]
            kinds |= {program: documents} if len(documents) >= LEAST else {}
    of_document = [kind for kind, documents in kinds.items() for _ in documents]
    found: dict[str, Any] = {"kinds": {kind: len(documents) for kind, documents in kinds.items()}}
    for place, name in ((1, "itself"), (0, "english")):
        texts = [" ".join(pair[place] for pair in document) for documents in kinds.values() for document in documents]
        found[name] = _clusters(pl.Series(texts), of_document)
    return found


def _clusters(texts: pl.Series, kinds: list[str]) -> dict[str, Any]:
    features = TfidfLsa().fit(texts)
    rows = np.concatenate([block.features for block in features.stream([texts])])
    sweep = sweep_kmeans(rows, range(1, 13))
    choice = select_num_clusters(rows, sweep, texts)
    return {"num_clusters": choice.value, "nmi": round(agreement(sweep.labels[3], kinds).nmi, 3)}


def main() -> None:
    """Measure all languages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS / "scripts.json")
    options = parser.parse_args()
    found = [
        {
            "language": language,
            "clusters": clusters_found(language),
            "near_duplicates": [near_duplicates_found(language, program, size) for program, size in SHORT],
        }
        for language in LANGUAGES
    ]
    options.output.write_text(
        json.dumps({"command": "python benchmarks/corpus/scripts.py", "languages": found}, indent=1)
    )
    for row in found:
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
