"""Assets whose value is an `Artifact`, and what Dagster shows of it: data version, metadata, thumbnail, checks."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from pipelines.store.artifacts import Artifact, Draft

if TYPE_CHECKING:
    from analysis.figures import Picture

THUMBNAIL = "thumbnail.png"

ARTIFACT = dg.PythonObjectDagsterType(Artifact, name="Artifact", description="A finished folder, by its fingerprint.")
dg.make_python_type_usable_as_dagster_type(Artifact, ARTIFACT)


@dataclass(frozen=True)
class Check:
    """One promise about an artifact, looked at after it was built or reused."""

    name: str
    passed: bool
    description: str
    warning: bool = False

    def result(self) -> dg.AssetCheckResult:
        """As Dagster's check result; a warning never stops the run."""
        severity = dg.AssetCheckSeverity.WARN if self.warning else dg.AssetCheckSeverity.ERROR
        return dg.AssetCheckResult(
            check_name=self.name, passed=self.passed, description=self.description, severity=severity
        )


def artifact_asset(
    *,
    group: str,
    version: str,
    kinds: set[str],
    blocking: Sequence[str] = (),
    warnings: Sequence[str] = (),
    pool: str | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    partitions_def: dg.PartitionsDefinition | None = None,
) -> Callable[[Callable[..., dg.MaterializeResult]], dg.AssetsDefinition]:
    """An asset whose value is an `Artifact`; its name and description are those of the function.

    Args:
        group: group in the asset graph.
        version: code version, see `pipelines.store.artifacts.source_version`.
        kinds: what Dagster shows as its technology.
        blocking: names of checks whose failure stops everything downstream.
        warnings: names of checks that only warn.
        pool: concurrency pool, such as `gpu`.
        retry_policy: only where a second try can succeed.
        partitions_def: of an asset that is materialised part by part.
    """

    def decorate(function: Callable[..., dg.MaterializeResult]) -> dg.AssetsDefinition:
        name = function.__name__
        return dg.asset(
            group_name=group,
            code_version=version,
            kinds=kinds,
            check_specs=[
                *(dg.AssetCheckSpec(check, asset=name, blocking=True) for check in blocking),
                *(dg.AssetCheckSpec(check, asset=name) for check in warnings),
            ],
            pool=pool,
            retry_policy=retry_policy,
            partitions_def=partitions_def,
            io_manager_key="store",
            dagster_type=ARTIFACT,
        )(function)

    return decorate


def materialized(
    artifact: Artifact,
    *,
    table: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    checks: Sequence[Check] = (),
) -> dg.MaterializeResult[Artifact]:
    """The result of an asset.

    Args:
        artifact: what was built or reused; its fingerprint is the data version.
        table: the table whose schema and row count stand for the asset.
        metadata: what else a reader of the UI should see.
        checks: outcomes of the asset's checks.
    """
    shown: dict[str, Any] = {"folder": dg.MetadataValue.path(artifact.folder), "reused": artifact.reused}
    if table is not None:
        shown |= table_metadata(artifact.scan(table))
    if (artifact.folder / THUMBNAIL).exists():
        shown["preview"] = image_metadata(artifact.folder / THUMBNAIL)
    return dg.MaterializeResult(
        value=artifact,
        data_version=dg.DataVersion(artifact.fingerprint),
        metadata=shown | dict(metadata or {}),
        check_results=[check.result() for check in checks],
    )


def write_thumbnail(draft: Draft, picture: "Picture") -> None:
    """Keep a figure, small, for the UI."""
    from analysis.figures import thumbnail

    with draft.writing(THUMBNAIL) as path:
        path.write_bytes(thumbnail(picture.figure))


def table_metadata(frame: pl.LazyFrame) -> dict[str, Any]:
    """Row count and column schema under the names that Dagster's UI knows."""
    columns = [dg.TableColumn(name, str(dtype)) for name, dtype in frame.collect_schema().items()]
    rows = frame.select(pl.len()).collect().item()
    return {
        "dagster/row_count": dg.MetadataValue.int(rows),
        "dagster/column_schema": dg.MetadataValue.table_schema(dg.TableSchema(columns)),
    }


def image_metadata(path: Path) -> dg.MarkdownMetadataValue:
    """A PNG shown in the UI; browsers do not follow file links from there, so the bytes travel along."""
    return dg.MetadataValue.md(f"![{path.stem}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})")


def markdown_table(frame: pl.DataFrame, rows: int = 20) -> dg.MarkdownMetadataValue:
    """The first rows of a table as Markdown; pipes in cells are escaped."""

    def cell(value: object) -> str:
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        return text.replace("|", "\\|").replace("\n", " ")

    lines = [" | ".join(frame.columns), " | ".join("---" for _ in frame.columns)]
    lines += [" | ".join(cell(value) for value in row) for row in frame.head(rows).iter_rows()]
    return dg.MetadataValue.md("\n".join(f"| {line} |" for line in lines))
