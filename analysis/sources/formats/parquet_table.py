"""Parquet and Arrow files as tables. Plain columns stay columns; nested columns become Python values."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from analysis.sources.formats.blocks import BLOCK_ROWS, Block, Values, Wanted
from analysis.sources.formats.encodings import PARQUET, other_kind
from analysis.sources.formats.labels import names_in_parquet, with_names
from analysis.sources.records import SourceError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ParquetTable:
    """A Parquet file; only the wanted columns are read."""

    path: Path

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        """All rows; see `Table`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                schema = file.schema_arrow
                yield from _blocks(schema, wanted, file.iter_batches(BLOCK_ROWS, columns=wanted.of(schema.names)))
        except (pa.ArrowException, KeyError) as error:
            if (kind := other_kind(self.path)) not in ("", PARQUET):
                raise SourceError(f"the file is {kind}; expected Parquet") from error
            raise SourceError(f"not readable as .parquet (fetch the file or write it again): {error}") from error


@dataclass(frozen=True)
class ArrowTable:
    """An Arrow file, as `save_to_disk` of Hugging Face's `datasets` writes it (a stream), or Feather (a file)."""

    path: Path

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        """All rows; see `Table`."""
        import pyarrow as pa

        try:
            with pa.memory_map(str(self.path)) as source:
                if source.read(6) == b"ARROW1":
                    file = pa.ipc.open_file(source)
                    schema, batches = file.schema, map(file.get_batch, range(file.num_record_batches))
                else:
                    source.seek(0)
                    stream = pa.ipc.open_stream(source)
                    schema, batches = stream.schema, iter(stream)
                yield from _blocks(schema, wanted, (part for batch in batches for part in _parts(batch)))
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"not readable as .arrow: {error}. Write the table again, or as Parquet") from error


def _parts(batch: "pa.RecordBatch") -> Iterator["pa.RecordBatch"]:
    return (batch.slice(start, BLOCK_ROWS) for start in range(0, batch.num_rows, BLOCK_ROWS))


def _blocks(schema: "pa.Schema", wanted: Wanted, batches: Iterable["pa.RecordBatch"]) -> Iterator[Block]:
    chosen, labels, n_before = wanted.of(schema.names), names_in_parquet(schema.metadata), 0
    yield Block(0, schema.names, {name: [] for name in chosen}, row_places(0))
    for batch in batches:
        columns = {name: arrow_values(batch.column(name)) for name in chosen}
        yield with_names(Block(batch.num_rows, schema.names, columns, row_places(n_before)), labels)
        n_before += batch.num_rows


def row_places(n_before: int) -> Callable[[int], str]:
    """A function from a row index in a block to its place in the file, counted from 1."""
    return lambda row: f"row {n_before + row + 1}"


def arrow_values(array: "pa.Array[Any] | pa.ChunkedArray[Any]") -> Values:
    """The values of an Arrow column: a series if its type is plain, else Python values."""
    import pyarrow as pa

    if isinstance(array.type, pa.BaseExtensionType):
        array = array.cast(array.type.storage_type) if isinstance(array, pa.ChunkedArray) else array.storage
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        if not _is_text(array.type):
            raise
        raw = array.cast(pa.large_binary())
        raw.validate(full=True)  # a damaged file, unless only its bytes are not UTF-8
        return [None if text is None else text.decode("utf-8", "replace") for text in raw.to_pylist()]
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if pa.types.is_nested(kind) or _is_binary(kind) or pa.types.is_decimal256(kind):  # polars panics at the last
        written = str(array.type)
        values = array.to_pylist(maps_as_pydicts="strict" if "map<" in written else None)  # slower, so only for maps
        return [without_gaps(value) for value in values] if written.count("struct<") > 1 else values
    try:
        return pl.Series(pl.from_arrow(array))
    except pl.exceptions.ComputeError:  # polars lacks the type, such as a time zone +05:30
        return array.to_pylist()


def without_gaps(value: Any, is_inside: bool = False) -> Any:
    """A value without the nulls of objects inside objects: a table gives each object the fields of all the others."""
    match value:
        case list():
            return [without_gaps(item, is_inside) for item in value]
        case dict():
            fields = value.items()
            return {name: without_gaps(item, True) for name, item in fields if not (is_inside and item is None)}
    return value


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_binary(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary))
