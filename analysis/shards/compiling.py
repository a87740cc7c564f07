"""Runs all stages on a few documents. This compiles the kernels into the machine's cache, where its workers find
them."""

import polars as pl

from analysis.clusters.corpus_model import CorpusModel
from analysis.clusters.kmeans import sweep_kmeans
from analysis.corpus.cleaning import CleanConfig, clean
from analysis.features.lsa import TfidfLsa
from analysis.sources.records import RECORD_SCHEMA
from analysis.text.sampling import sample_texts


def compile_kernels() -> None:
    """Clean, vectorise and cluster a few documents."""
    words = ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron")
    prompts = [f"{first} before {second} and after {first}" for first in words for second in words]
    columns = {
        "source": "none",
        "split": ["train", "test"] * (len(prompts) // 2),
        "prompt": prompts,
        "completion": prompts,
    }
    records = pl.DataFrame(columns, schema_overrides=RECORD_SCHEMA).with_columns(
        pl.lit(None, pl.String).alias(name) for name in ("task", "licence", "origin")
    )
    clean(records.select(RECORD_SCHEMA.names()).lazy(), CleanConfig(detect_language=False))
    texts = sample_texts([prompts], 30)
    features = TfidfLsa(4).fit(texts)
    model = CorpusModel(features, sweep_kmeans(features.transform(texts), [2]).centers[0])
    model.assign(prompts)
