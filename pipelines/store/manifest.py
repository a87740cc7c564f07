"""Which files an artifact has, with sizes and hashes; writing them so that they survive a crash of the machine."""

import os
from pathlib import Path

import xxhash

Manifest = dict[str, tuple[int, str]]
"""Path of each file below the folder -> its size in bytes and its hash (XXH3, 128 bits)."""

_BLOCK = 1 << 20


def file_hash(path: Path) -> str:
    """XXH3 of a file's bytes, 32 hex digits: finds damage, and costs a tenth of reading from a disk."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return str(digest.hexdigest())


def write_manifest(folder: Path, *, without: str) -> Manifest:
    """Sizes and hashes of the files in a folder, in the order of their names.

    Args:
        without: name of the file that holds the manifest.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, file_hash(path))
        for path in paths
        if path != folder / without
    }


def damage(folder: Path, manifest: Manifest, *, hashes: bool) -> str | None:
    """What is wrong with the files of a folder, None if nothing is.

    Args:
        hashes: read every file, rather than look at sizes alone.
    """
    for name, (size, expected) in manifest.items():
        path = folder / name
        if not path.is_file():
            return f"{path}: expected a file of {size:,} bytes, found none"
        if path.stat().st_size != size:
            return f"{path}: expected {size:,} bytes, found {path.stat().st_size:,}"
        if hashes and (found := file_hash(path)) != expected:
            return f"{path}: expected the hash {expected}, found {found}"
    return None


def sync_tree(folder: Path) -> None:
    """Wait until a folder and all in it are on the disk."""
    for path in sorted(folder.rglob("*")):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
