"""Write and read arrays (npy), JSON, tables (Parquet) and bytes. Writes are atomic: a file is complete or absent."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an npy file; creates its folder if it is missing."""
    _replace(path, lambda file: np.save(file, array, allow_pickle=False))


def load_array(path: Path) -> NDArray[Any]:
    """Read an npy file. Pickled objects are refused."""
    return np.load(path, allow_pickle=False)


def save_json(path: Path, value: Any) -> None:
    """Write a JSON file; creates its folder if it is missing."""
    _replace(path, lambda file: file.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()))


def save_bytes(path: Path, data: bytes) -> Path:
    """Write a file and return its path; creates its folder if it is missing."""
    _replace(path, lambda file: file.write(data))
    return path


def save_table(path: Path, table: pl.DataFrame) -> None:
    """Write a Parquet file; creates its folder if it is missing."""
    _replace(path, table.write_parquet)


def load_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def of_this_version(folder: Path) -> Iterator[None]:
    """Read files that another version of hydralora may have written.

    Raises:
        ValueError: they lack a value, or have one that this version does not know.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, pl.exceptions.ColumnNotFoundError) as error:
        raise ValueError(
            f"{folder}: expected files as this version of hydralora writes them, got: {type(error).__name__} {error}. "
            "Write the folder again, or take the version that wrote it"
        ) from error


def _replace(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
