"""Metadata for Dagster's web UI: tables, schemas, pictures."""

import base64
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl


def table_metadata(frame: pl.LazyFrame) -> dict[str, Any]:
    """Row count and column schema, under the metadata keys that Dagster's UI recognises."""
    columns = [dg.TableColumn(name, str(dtype)) for name, dtype in frame.collect_schema().items()]
    rows = frame.select(pl.len()).collect().item()
    return {
        "dagster/row_count": dg.MetadataValue.int(rows),
        "dagster/column_schema": dg.MetadataValue.table_schema(dg.TableSchema(columns)),
    }


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
