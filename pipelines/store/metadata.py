"""Metadata for Dagster's web UI: tables, schemas, pictures."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

if TYPE_CHECKING:
    from pipelines.store.artifacts import Artifact

COLUMNS = {
    "document_id": "16 hex digits: hash of source, prompt and completion",
    "source": "name of the source in the run configuration",
    "task": "finer label of the source; null where it has none",
    "split": "train, or test (held out)",
    "prompt": "what the model is given",
    "completion": "what it is trained to answer",
    "language": "detected language; null if it was not detected",
    "licence": "licence of the source; null if unknown",
    "origin": "file, URL or package that the record came from",
    "cluster": "number of the document's cluster, from 0",
    "distance": "distance to the centre of its cluster",
    "neighbour": "the second nearest cluster",
    "margin": "0 on the border to the neighbour, 1 at the centre",
    "is_outlier": "whether it is far from its own centre, compared with its cluster",
    "expert": "number of the expert, from 0",
    "group": "source, task or cluster that the row is about",
    "predicted": "group predicted from the prompt",
    "group_kind": "all, source, task or cluster",
    "method": "name of the method",
    "seed": "seed of the training",
    "loss": "nats per answer token",
    "loss_low": "lower end of the 95% interval of the loss",
    "loss_high": "upper end of the 95% interval of the loss",
    "score": "minus the mean distance of K to the corners of the curve (L-method); the highest is N",
    "n_documents": "number of documents",
    "n_tokens": "number of answer tokens",
    "n_clusters": "number of clusters K",
    "inertia": "sum of squared distances to the centres (SSE)",
    "n_iter": "iterations of K-means",
    "layer": "number of the layer, from 0",
    "module": "adapted module of the layer",
    "usage": "mean gate over all tokens",
    "domain": "group that has a plain LoRA",
    "folder": "folder of the plain LoRA",
    "found": "share of prompts whose domain is predicted correctly",
    "live_loss": "loss with live gates, nats per token",
    "export_loss": "loss of the plain LoRA, nats per token",
    "difference": "loss minus that of the other, nats per token",
    "kl": "divergence of the plain LoRA's predictions from those with live gates, nats per token",
    "plain_peft_difference": "loss under peft alone minus that of the plain LoRA here, nats per token",
    "plain_peft_tokens": "number of tokens of that comparison",
    "name": "name of the cluster",
    "named_by": "who gave the name: you, model, terms, or tail for the tail of small tasks",
    "relation": "what the two heads share, such as: different data, same seed",
    "head_a": "the first adapter, or one of its experts",
    "head_b": "the second adapter, or one of its experts",
    "matrix": "A or B",
    "subspace_similarity": "0 for orthogonal row spaces, 1 for equal ones",
    "mean_angle": "mean principal angle of the two row spaces, in degrees",
    "largest_angle": "largest principal angle, in degrees",
    "cka": "linear CKA of the two matrices",
    "cosine": "cosine of the two matrices as vectors",
    "relative_distance": "0 for equal matrices, about 1.41 for unrelated ones",
    "update_cosine": "cosine of what training added to each; null if the start is unknown",
    "chance": "subspace similarity of random matrices of these shapes",
}
"""Column -> what it holds, for the UI."""


def table_metadata(frame: pl.LazyFrame) -> dict[str, Any]:
    """Row count and column schema, under the metadata keys that Dagster's UI recognises."""
    columns = [
        dg.TableColumn(name, str(dtype), description=COLUMNS.get(name))
        for name, dtype in frame.collect_schema().items()
    ]
    rows = frame.select(pl.len()).collect().item()
    return {
        "dagster/row_count": dg.MetadataValue.int(rows),
        "dagster/column_schema": dg.MetadataValue.table_schema(dg.TableSchema(columns)),
    }


PASSED_ON = (
    "document_id",
    "source",
    "task",
    "split",
    "prompt",
    "completion",
    "language",
    "licence",
    "origin",
    "cluster",
)
"""Columns that are copied from table to table under one name."""


def column_lineage(frame: pl.LazyFrame, inputs: "Mapping[str, Artifact]") -> dict[str, Any]:
    """Which columns came from which asset, under the metadata key that Dagster's UI recognises.

    Args:
        inputs: asset -> its artifact.
    """
    known = {
        asset: {
            name
            for file in artifact.record["files"]
            if file.endswith(".parquet")
            for name in pl.read_parquet_schema(artifact.folder / file)
        }
        for asset, artifact in inputs.items()
    }
    found = {
        column: [dg.TableColumnDep(dg.AssetKey(asset), column) for asset, names in known.items() if column in names]
        for column in frame.collect_schema().names()
        if column in PASSED_ON
    }
    lineage = dg.TableColumnLineage({column: deps for column, deps in found.items() if deps})
    return {"dagster/column_lineage": lineage} if lineage.deps_by_column else {}


def rounded(value: Any) -> Any:
    """Floats, also those within mappings and lists, to four digits; the exact ones are in the artifact's files."""
    match value:
        case float():
            return float(f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}")
        case Mapping():
            return {name: rounded(inner) for name, inner in value.items()}
        case list():
            return [rounded(inner) for inner in value]
    return value


def file_image(path: Path) -> dg.MarkdownMetadataValue:
    """A PNG to show in the UI. It is embedded, because browsers do not open file links from there."""
    return dg.MetadataValue.md(f"![{path.stem}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})")


def markdown_table(frame: pl.DataFrame, rows: int = 20) -> dg.MarkdownMetadataValue:
    """The first rows of a table as Markdown; pipes in cells are escaped."""

    def cell(value: object) -> str:
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        return text.replace("|", "\\|").replace("\n", " ")

    lines = [" | ".join(frame.columns), " | ".join("---" for _ in frame.columns)]
    lines += [" | ".join(cell(value) for value in row) for row in frame.head(rows).iter_rows()]
    return dg.MetadataValue.md("\n".join(f"| {line} |" for line in lines))
