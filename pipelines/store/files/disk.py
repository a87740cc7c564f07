"""One clear error for a full disk, whichever library notices it."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MARKS = (
    "No space left",  # polars, torch
    "os error 28",  # Rust: safetensors, polars
    "Disk quota exceeded",
    "requested and",  # numpy: "4288 requested and 992 written"
    "PytorchStreamWriter failed",
    "iostream error",
    "database or disk is full",  # SQLite
)


class DiskFullError(RuntimeError):
    """The disk is full. The message says what to do."""


def nearest_existing(folder: Path) -> Path:
    """The path itself, or the nearest folder above it that exists: where it will be made."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


OTHER_STORE = (
    "take a folder on a larger disk (--out, or resources.store.config.directory of a configuration); the next run "
    "continues from what is there"
)


@contextmanager
def clear_disk_errors(folder: Path, way_out: str = OTHER_STORE) -> Iterator[None]:
    """Convert every library's errors about a full disk, on which `folder` is or will be, to `DiskFullError`."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        existing = nearest_existing(folder)
        if not is_disk_full(error, existing):
            raise
        free = shutil.disk_usage(existing).free
        raise DiskFullError(
            f"No space left on the device while writing {folder} ({free / 1e6:.1f} MB free). Free some space, or "
            f"{way_out}."
        ) from None


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Whether an error, or one of its causes, means that the disk of `folder` is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(mark in str(seen) for mark in _MARKS):
            return True
        seen = seen.__cause__ or seen.__context__
    # Some writers only report that something broke ("Invalid thrift: transport error"). If the disk has no free block,
    # assume that it is the cause: an unrelated error at that moment is rare.
    return shutil.disk_usage(folder).free < 4096
