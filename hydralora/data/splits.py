"""The side of a table with a column `split`: what is trained on, and what is held out."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hydralora.data.documents import as_dataset
from hydralora.data.template import DataError

if TYPE_CHECKING:
    from datasets import Dataset

SIDES = {
    "train": ("train", "training"),
    "test": ("test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"),
}
"""Common names of splits."""


def documents_of_split(path: Path, side: Literal["train", "test"]) -> "Dataset":
    """Rows of a Parquet file that belong to one side; all rows of a file without a column `split`.

    Args:
        side: `"train"` takes the rows of the training split, and those without a split; `"test"` takes the others.

    Raises:
        DataError: There is no such file, a split has an unknown name, or no row is left.
    """
    rows = as_dataset(path)
    if "split" not in rows.column_names:
        return rows
    names = [None if name is None else str(name).strip().lower() for name in rows["split"][:]]
    known = {name for common in SIDES.values() for name in common}
    if unknown := sorted({name for name in names if name is not None} - known):
        raise DataError(f"{path}: expected the names train or test in the column `split`, got {unknown}. Rename them")
    wanted = [i for i, name in enumerate(names) if (name is None or name in SIDES["train"]) == (side == "train")]
    if not wanted:
        raise DataError(f"{path}: expected rows of the split {side}, got {sorted({str(name) for name in names})} alone")
    return rows.select(wanted, keep_in_memory=True)
