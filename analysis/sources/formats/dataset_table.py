"""Hugging Face data sets as tables: the files of a local folder if possible, else through `datasets`."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.sources.formats.blocks import BLOCK_ROWS, Block, Values, Wanted
from analysis.sources.formats.labels import Names, names_in_features, with_names
from analysis.sources.formats.parquet_table import arrow_values, row_places, without_gaps
from analysis.sources.records import SourceError

TEXTS = ("string", "large_string", "")
FREE_FIELDS = ("name", "version", "data_dir", "data_files", "description", "features")
"""Fields of a builder's configuration that do not change how its files are read."""


@dataclass(frozen=True)
class LocalFiles:
    """The files of one split in a local folder.

    Attributes:
        paths: none if the files cannot be read one by one: a slice of a split, archives, or custom builder settings.
        labels: names of their class labels.
        left_out: readable files of the folder that `datasets` gives to no split: it takes one format, and where a name
            says train or test, only names that do.
    """

    paths: list[Path]
    labels: Names
    left_out: list[Path]


def local_files(folder: str, subset: str | None, split: str, is_readable: Callable[[Path], bool]) -> LocalFiles:
    """The files of one split in a local folder.

    Args:
        is_readable: whether a file is data of a known format.

    Raises:
        SourceError: the split does not exist. The message names the splits found.
    """
    import datasets

    builder = datasets.load_dataset_builder(folder, subset)
    by_split = builder.config.data_files or {}
    names = [str(name) for name in by_split]
    if split.isidentifier() and split not in names:
        raise SourceError(f"no split {split!r}; found {names}")
    default = type(builder.config)()
    changed = [
        item.name
        for item in dataclasses.fields(default)
        if item.name not in FREE_FIELDS and getattr(default, item.name) != getattr(builder.config, item.name)
    ]
    chosen = [Path(path) for path in by_split.get(split, ())]
    left_out: list[Path] = []
    if len(builder.builder_configs) < 2:  # else they may belong to another one
        used = {Path(path) for paths in by_split.values() for path in paths}
        files = (path for path in _below(Path(folder).resolve()) if is_readable(path))
        left_out = sorted(set(files) - {path.resolve() for path in used})
    if changed or not all(map(is_readable, chosen)):
        return LocalFiles([], {}, left_out)
    return LocalFiles(chosen, names_in_features(builder.info.features), left_out)


def _below(folder: Path) -> Iterator[Path]:
    """The files below a folder, without hidden ones, which `datasets` leaves out too."""
    for path in folder.rglob("*"):
        if not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts):
            yield path.resolve()


@dataclass(frozen=True)
class DatasetTable:
    """A memory-mapped `datasets.Dataset`.

    Args:
        dataset: data set with the features that its publisher declared.
        note: function that receives a note if `datasets` may have changed values of the files.
    """

    dataset: Any
    note: Callable[[str], None]

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        """All rows; see `Table`."""
        names = self.dataset.column_names
        chosen = wanted.of(names)
        self._note_numbers([name for name in chosen if name not in wanted.marks])
        plain = [name for name in chosen if _is_plain(self.dataset.features[name])]
        labels = names_in_features(self.dataset.features)
        yield Block(0, names, {name: [] for name in chosen}, row_places(0))
        for start in range(0, len(self.dataset), BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, len(self.dataset))
            columns = {name: self._column(name, name in plain, start, stop) for name in chosen}
            block = Block(stop - start, names, columns, row_places(start))
            yield with_names(block, labels)

    def _column(self, name: str, is_plain: bool, start: int, stop: int) -> Values:
        column = self.dataset.select_columns([name])
        if is_plain:
            return arrow_values(column.with_format("arrow")[start:stop][name])
        return [without_gaps(value) for value in column.with_format(None)[start:stop][name]]

    def _note_numbers(self, chosen: list[str]) -> None:
        """Add a note on converted numbers: `datasets` gives each column one type, so 4 beside 0.5 becomes 4.0."""
        if self.dataset.info.builder_name not in ("json", "csv"):
            return
        changed = [name for name in chosen if getattr(self.dataset.features[name], "dtype", "") not in TEXTS]
        labels = names_in_features(self.dataset.features)
        if others := [name for name in changed if name not in labels]:
            self.note(
                f"`datasets` has read the columns {others} as numbers or dates, which may be written otherwise in the "
                f"files. For the files' own text download them and read them as `files`"
            )


def _is_plain(feature: Any) -> bool:
    """Whether a column needs no decoding. JSON and nested columns are decoded by `datasets`."""
    import datasets

    return isinstance(feature, datasets.Value | datasets.ClassLabel)
