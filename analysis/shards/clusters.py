"""Features, the sweep over K and N from a sample of training documents; then one pass that assigns all documents."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.atomic_files import load_array, save_array
from analysis.clusters.assignment import LABELS_SCHEMA
from analysis.clusters.choice.selection import select_num_clusters, source_weights
from analysis.clusters.corpus_model import AssignedBlock, CorpusModel
from analysis.clusters.drift import REFERENCE, summarise_corpus
from analysis.clusters.interpretation import top_terms
from analysis.clusters.kmeans import ClusterSweep, best_of_sweeps, sweep_kmeans
from analysis.clusters.known_groups import GROUPS, describe_groups
from analysis.corpus.document_text import document_text
from analysis.engine.files import parquet_bytes, read_bytes, read_table, row_groups_of
from analysis.engine.stages import Output
from analysis.features.lsa import TfidfLsa
from analysis.features.vectoriser import TextStatistics
from analysis.shards.reading import Ref

ROWS = "rows.npy"
LABELS = "labels.parquet"
MAP = "map.parquet"
FOLDER = "__"
"""Stands for the separator of folders in a suffix, so that all files of a stage lie in one folder."""


def fitted_features(sample: Ref, settings: Mapping[str, Any]) -> Output:
    """TF-IDF and LSA fitted on the sample: the vectoriser's files, and `rows.npy`, the vectors of the sample.

    Args:
        settings: arguments of `TfidfLsa`.
    """
    texts = read_table(sample["url"], ["text"])["text"]
    features = TfidfLsa(**settings).fit(texts)
    with tempfile.TemporaryDirectory() as folder:
        features.save(Path(folder) / "model")
        save_array(Path(folder) / ROWS, features.transform(texts))
        return Output(files=_files_in(Path(folder)))


def fitted_clusters(rows: Ref, sample: Ref, n_clusters: int, balance: bool, random_state: int) -> Output:
    """K-means of the sample for one K and one seed: `centers.npy`, `labels.npy`; the value has SSE and iterations."""
    weights = source_weights(read_table(sample["url"], ["source"])["source"]) if balance else None
    sweep = sweep_kmeans(_array(rows), [n_clusters], n_init=1, sample_weight=weights, random_state=random_state)
    value = {"n_clusters": n_clusters, "inertia": float(sweep.inertia[0]), "n_iter": sweep.n_iter[0]}
    with tempfile.TemporaryDirectory() as folder:
        save_array(Path(folder) / "centers.npy", sweep.centers[0])
        save_array(Path(folder) / "labels.npy", sweep.labels[0])
        return Output(value, _files_in(Path(folder)))


def chosen_clusters(
    sample: Ref,
    features: Mapping[str, Ref],
    fits: Sequence[Mapping[str, Any]],
    text: str,
    balance: bool,
    random_state: int,
) -> Output:
    """N and the corpus model, from all fits of the sample.

    Args:
        features: files of `fitted_features`.
        fits: value and files of every `fitted_clusters`.

    Returns:
        the corpus model's files, with a summary of the sample as the reference for new documents; `map.parquet`, see
        `sample_map`. The value has `num_clusters`, the whole choice and the sweep.
    """
    table, rows = read_table(sample["url"]), _array(features[ROWS])
    weights = source_weights(table["source"]) if balance else None
    sweep = best_of_sweeps(rows, [_sweep(fit, weights) for fit in fits])
    choice = select_num_clusters(rows, sweep, table["text"], random_state=random_state)
    labels = sweep.labels[sweep.index(choice.value)]
    with tempfile.TemporaryDirectory() as folder:
        model = CorpusModel(
            TfidfLsa.load(_fetched(features, Path(folder))), sweep.centers[sweep.index(choice.value)], text
        )
        saved = Path(folder) / "saved" / "model"
        model.save(saved)
        is_held_out = np.zeros(len(table), bool)
        block = _one_block(list(model.stream([table["text"]])))
        summarise_corpus(block, is_held_out, model.n_clusters).save(saved / REFERENCE)
        known = describe_groups(
            model, table["text"], table["source"], labels, block.explained, is_held_out, random_state
        )
        if known is not None:
            known.save(saved / GROUPS)
        files = _files_in(saved.parent)
    files[MAP] = parquet_bytes([sample_map(table, rows, labels)])
    curve = {"n_clusters": list(sweep.n_clusters), "inertia": sweep.inertia.tolist(), "n_iter": list(sweep.n_iter)}
    return Output(_plain({"num_clusters": choice.value, "sweep": curve, **asdict(choice)}), files)


def assigned_documents(documents: Ref, model: Mapping[str, Ref], text: str) -> Output:
    """The cluster of every document of a shard: `labels.parquet`; the value has sizes and statistics."""
    table = read_table(documents["url"], ["document_id", "source", "prompt", "completion"])
    with tempfile.TemporaryDirectory() as folder:
        corpus_model = CorpusModel.load(_fetched(model, Path(folder)))
        block = _one_block(list(corpus_model.stream([table.select(text=document_text(text))["text"]])))
    labels = pl.DataFrame(
        {
            "document_id": table["document_id"],
            "source": table["source"],
            "cluster": block.labels,
            "squared_distance": block.squared_distances,
            "explained": block.explained,
        },
        schema=LABELS_SCHEMA,
    )
    sizes = np.bincount(block.labels, minlength=corpus_model.n_clusters).tolist()
    value = {"sizes": sizes, "statistics": asdict(block.statistics)}
    return Output(value, {LABELS: parquet_bytes(row_groups_of(labels))})


def model_files(files: Mapping[str, Ref]) -> dict[str, Ref]:
    """Path within the folder of the model -> file, for the files that belong to a model."""
    start = f"model{FOLDER}"
    return {s.removeprefix(start).replace(FOLDER, "/"): file for s, file in files.items() if s.startswith(start)}


def sample_map(sample: pl.DataFrame, rows: NDArray[np.float32], labels: NDArray[np.int32]) -> pl.DataFrame:
    """Documents in the plane of the two leading principal components of their features.

    Args:
        sample: document_id, source, text.
        rows: [n, d].
        labels: [n].

    Returns:
        `x, y, cluster, name, source, document_id, text`; `name` is the three strongest terms of the cluster.
    """
    terms = top_terms(sample["text"], labels, 3).sort("cluster", "rank").group_by("cluster", maintain_order=True)
    names = terms.agg(name=pl.col("term").str.join(", "))
    centered = rows - rows.mean(axis=0)
    _, directions = np.linalg.eigh(centered.T @ centered)
    axes = directions[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])] < 0, -1, 1)
    points = np.pad(centered @ axes, ((0, 0), (0, 2 - axes.shape[1])))
    return (
        pl.DataFrame({"x": points[:, 0], "y": points[:, 1], "cluster": labels}, schema_overrides={"cluster": pl.Int32})
        .join(names, on="cluster", how="left", maintain_order="left")
        .with_columns(sample["source"], sample["document_id"], sample["text"])
    )


def _sweep(fit: Mapping[str, Any], weights: NDArray[np.float64] | None) -> ClusterSweep:
    value = fit["value"]
    return ClusterSweep(
        (value["n_clusters"],),
        np.array([value["inertia"]]),
        (_array(fit["files"]["centers.npy"]),),
        _array(fit["files"]["labels.npy"])[None],
        (value["n_iter"],),
        weights,
    )


def _one_block(blocks: Sequence[AssignedBlock]) -> AssignedBlock:
    return AssignedBlock(
        np.concatenate([np.empty(0, np.int32), *(block.labels for block in blocks)]),
        np.concatenate([np.empty(0), *(block.squared_distances for block in blocks)]),
        np.concatenate([np.empty(0, np.float32), *(block.explained for block in blocks)]),
        sum((block.statistics for block in blocks), TextStatistics()),
    )


def _files_in(folder: Path) -> dict[str, bytes]:
    """Suffix -> content."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix().replace("/", FOLDER): path.read_bytes() for path in paths}


def _fetched(files: Mapping[str, Ref], folder: Path) -> Path:
    """The model among the files, in a folder of this machine."""
    model = folder / "model"
    model.mkdir()
    for name, file in model_files(files).items():
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(read_bytes(file["url"]))
    return model


def _array(file: Ref) -> NDArray[Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "array.npy"
        path.write_bytes(read_bytes(file["url"]))
        return load_array(path)


def _plain(value: Any) -> Any:
    """A value for JSON, with None for what is not a number."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
